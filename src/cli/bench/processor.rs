//! What /proc/cpuinfo says of the processor, proc_cpuinfo(5). `benches/peers` has this file, too.

use std::fs;

/// The values of a key, one for each processor; empty where there is none.
pub(super) fn cpuinfo(key: &str) -> Vec<String> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |line: &str| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    };
    text.lines().filter_map(value).collect()
}

/// The name, which arm64 often does not say.
pub(super) fn model() -> Option<String> {
    let first = |key| cpuinfo(key).into_iter().next();
    Some(told_apart(first("model name")?, first("cpu family").zip(first("model"))))
}

/// Hypervisors often give a processor a name without a number, which several generations share:
/// with its family and model, where they are known.
fn told_apart(name: String, family_and_model: Option<(String, String)>) -> String {
    match family_and_model {
        Some((family, model)) if !name.contains(|c: char| c.is_ascii_digit()) => {
            format!("{name} (family {family}, model {model})")
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_of_one_name_are_told_apart() {
        let check = |name: &str, numbers: Option<(&str, &str)>, expected: &str| {
            let numbers = numbers.map(|(family, model)| (family.to_owned(), model.to_owned()));
            assert_eq!(told_apart(name.to_owned(), numbers), expected);
        };
        let hidden = "Intel(R) Xeon(R) Processor";
        let expected = "Intel(R) Xeon(R) Processor (family 6, model 207)";
        check(hidden, Some(("6", "207")), expected);
        check(hidden, None, hidden);
        let told = "AMD Ryzen 7 5800X 8-Core Processor";
        check(told, Some(("25", "33")), told);
    }
}
