//! `ringwire top`: running nodes as a picture that moves, in a terminal of 80 by 24 or any other.
//!
//! Attaches by the registry files; nodes that start, die or are started again meanwhile come and go
//! in the view. Nothing is sent to a node, and it does not notice.

mod draw;
mod state;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ringwire::{Config, Nanos, SetupError};
use rustix::event::{PollFd, PollFlags, Timespec};
use signal_hook::consts::signal::{SIGINT, SIGQUIT, SIGTERM};
use signal_hook::flag;

use crate::cli::CommandError;
use crate::cli::attach::Selection;
use crate::cli::options::parse_seconds;
use crate::cli::top::state::{Top, Wish};

/// How late a signal may be seen.
const TICK: Duration = Duration::from_millis(200);

/// Watch running nodes: sessions, rates, lanes, drops, latencies, stalls.
///
/// Keys: ? shows them. Nodes of other users are not seen. Needs a terminal; `ringwire stat --watch`
/// does not.
#[derive(Debug, Args)]
pub(crate) struct TopOptions {
    #[command(flatten)]
    selection: Selection,

    /// How often to look, in seconds.
    #[arg(long, short, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds)]
    every: Duration,
}

impl TopOptions {
    /// With the places that a configuration names, unless options do.
    pub(crate) fn within(mut self, config: &Config) -> Self {
        self.selection = self.selection.or_in(config.registry_directory());
        self
    }
}

/// Runs `ringwire top`.
pub(crate) fn run(options: &TopOptions) -> Result<ExitCode, CommandError> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let text = "top needs a terminal; `ringwire stat --watch` does not";
        return Err(CommandError::Usage(text.into()));
    }
    let stop = Arc::new(AtomicBool::new(false));
    // From outside: what is typed is a key here. Not SIGHUP: without its terminal the process ends
    // by itself.
    for signal in [SIGTERM, SIGINT, SIGQUIT] {
        // A second one ends it at once, which a terminal that takes no output may hold up. In this
        // order: what is registered first runs first, and must not see its own signal.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .map_err(|source| SetupError::System { operation: "sigaction", source })?;
    }
    let terminal_error = |source| CommandError::Output { what: "the terminal".into(), source };
    // When it can not be set up, a part of it may be.
    let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore());
    let mut terminal = terminal.map_err(terminal_error)?;
    let outcome = watch(&mut terminal, options, &stop);
    ratatui::restore();
    outcome.map_err(terminal_error)?;
    Ok(ExitCode::SUCCESS)
}

/// What standard input has.
enum Input {
    None,
    Some,
    /// The terminal is gone.
    HungUp,
}

/// Waits for a key. Asked before crossterm is, whose reader (0.29) never ends on a terminal that
/// has hung up.
fn wait_for_input(time: Duration) -> io::Result<Input> {
    let stdin = io::stdin();
    let mut files = [PollFd::new(&stdin, PollFlags::IN)];
    let time = Timespec::try_from(time).expect("a tick is short");
    match rustix::event::poll(&mut files, Some(&time)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => Ok(Input::None),
        Ok(_) if files[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) => {
            Ok(Input::HungUp)
        }
        Ok(_) => Ok(Input::Some),
        Err(error) => Err(error.into()),
    }
}

fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    options: &TopOptions,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut top = Top::new();
    let mut due = Nanos(0);
    // ORDERING: Relaxed, paired with the store in the signal handler: it carries nothing else.
    while !stop.load(Ordering::Relaxed) {
        let now = Nanos::now();
        if now >= due && !top.is_paused {
            top.update(options.selection.read());
            due = now + options.every;
        }
        terminal.draw(|frame| draw::draw(frame, &top))?;
        let left = if top.is_paused { TICK } else { due.since(Nanos::now()).min(TICK) };
        match wait_for_input(left)? {
            Input::None => continue,
            Input::HungUp => return Ok(()),
            Input::Some => {}
        }
        // All that came: crossterm takes whatever the terminal has with the first key, and poll(2)
        // would not tell of the rest.
        while event::poll(Duration::ZERO)? {
            // A resize, and what is no key, only draws again.
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                match top.press(key) {
                    Wish::Nothing => {}
                    Wish::Refresh => due = Nanos(0),
                    Wish::Quit => return Ok(()),
                }
            }
        }
    }
    Ok(())
}
