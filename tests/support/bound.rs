//! Servers that end with the test that has started them, even where that is killed.

use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// A command that is killed when the thread that has started it ends (PR_SET_PDEATHSIG), where the
/// system has a tool that asks for it; setpriv(1) becomes the command, so that its process is the
/// same.
pub(crate) fn command(program: &str) -> Command {
    static HAS_TOOL: OnceLock<bool> = OnceLock::new();
    let arguments = ["--pdeathsig", "KILL", "--"];
    let has_tool = *HAS_TOOL.get_or_init(|| {
        let mut tried = Command::new("setpriv");
        tried.args(arguments).arg("true").stdin(Stdio::null()).stderr(Stdio::null());
        tried.status().is_ok_and(|status| status.success())
    });
    if !has_tool {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(arguments).arg(program);
    command
}
