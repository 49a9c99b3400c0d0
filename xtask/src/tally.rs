//! Counts the tests that passed, failed or were skipped, from the output of test programs.

use std::{collections::BTreeSet, mem};

/// The beginning of the line that a test writes which lacks its peers; see `metaq_testkit::peers`.
const SKIPPED: &str = "skipped: ";

/// The results of one test program.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) name: String,
    /// The number of tests that its last line gives; none before.
    passed: Option<usize>,
    failed: Vec<String>,
    /// The tests that passed, by the last parts of their paths.
    names: BTreeSet<String>,
    skipped: BTreeSet<String>,
    /// The beginning of a line that another thread has written into.
    broken: String,
}

impl Program {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Takes one line of its output.
    pub(crate) fn line(&mut self, line: &str) {
        let line = format!("{}{}", mem::take(&mut self.broken), line.trim());
        // The harness writes a line in parts, and tests that are skipped write beside it.
        if let Some(at) = line.find(SKIPPED).filter(|at| *at == 0 || line.starts_with("test ")) {
            let test = line[at + SKIPPED.len()..].split(": ").next().unwrap_or_default();
            self.skipped.insert(test.to_owned());
            line[..at].clone_into(&mut self.broken);
        } else if let Some(result) = line.strip_prefix("test result: ") {
            // As in `ok. 3 passed; 0 failed; …`; each crate of doc tests may have two.
            let count =
                result.split_once(". ").and_then(|(_, counts)| counts.split(' ').next()?.parse().ok());
            self.passed = Some(self.passed.unwrap_or(0) + count.unwrap_or(0));
        } else if let Some((test, outcome)) =
            line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
        {
            match outcome.split([' ', ',']).next() {
                Some("ok") => {
                    self.names.insert(test.rsplit("::").next().unwrap_or(test).to_owned());
                }
                Some("FAILED") => self.failed.push(format!("{} {test}", self.name)),
                _ => {}
            }
        }
    }

    /// The number of tests that passed. The harness counts those that were skipped among them.
    pub(crate) fn passed(&self) -> usize {
        self.passed.unwrap_or(0).saturating_sub(self.skipped.intersection(&self.names).count())
    }

    /// Its results in a few words.
    pub(crate) fn describe(&self) -> String {
        let skipped = match self.skipped.len() {
            0 => String::new(),
            count => format!(", {count} skipped"),
        };
        let failed = match self.failed.len() {
            0 => String::new(),
            count => format!(", {count} FAILED"),
        };
        format!("{}: {} passed{failed}{skipped}", self.name, self.passed())
    }

    /// True when it ran no test.
    pub(crate) fn is_empty(&self) -> bool {
        self.passed == Some(0) && self.failed.is_empty()
    }

    /// True when it ran to its end and no test failed.
    pub(crate) fn is_passed(&self) -> bool {
        self.passed.is_some() && self.failed.is_empty()
    }
}

/// The results of all programs.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Tally {
    /// Adds the results of a program that has ended; `is_success` by its exit status, where that is known.
    pub(crate) fn add(&mut self, program: Program, is_success: bool) {
        self.passed += program.passed();
        let has_failed = !program.failed.is_empty();
        if program.passed.is_none() || !is_success && !has_failed {
            self.failed.push(format!("{} (the program)", program.name));
        }
        self.failed.extend(program.failed);
        self.skipped.extend(program.skipped);
    }

    /// Adds a failure of something that isn't a test program.
    pub(crate) fn add_failure(&mut self, name: &str) {
        self.failed.push(name.to_owned());
    }

    pub(crate) fn is_passed(&self) -> bool {
        self.failed.is_empty()
    }

    /// One line with all of it.
    pub(crate) fn summary(&self) -> String {
        let names = |names: String| if names.is_empty() { names } else { format!(" ({names})") };
        format!(
            "passed {}, failed {}{}, skipped {}{}",
            self.passed,
            self.failed.len(),
            names(self.failed.join(", ")),
            self.skipped.len(),
            names(self.skipped.join(", "))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(output: &str) -> Program {
        let mut program = Program::new("x y");
        output.lines().for_each(|line| program.line(line));
        program
    }

    fn summary(programs: [(&str, bool); 1]) -> String {
        let mut tally = Tally::default();
        programs.into_iter().for_each(|(output, is_success)| tally.add(program(output), is_success));
        tally.summary()
    }

    #[test]
    fn passed_failed_and_skipped_tests_are_told_apart() {
        let output = "\
running 5 tests
skipped: needs_java: a JDK (java) is missing; on Debian: apt-get install it
test a::needs_java ... ok
test a::b ... ok
test c - should panic ... ok
test d ... FAILED
test e ... ignored, by hand

failures:

---- d stdout ----
test result of something ... else
failures:
    d

test result: FAILED. 3 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
        assert_eq!(summary([(output, false)]), "passed 2, failed 1 (x y d), skipped 1 (needs_java)");
        assert_eq!(program(output).describe(), "x y: 2 passed, 1 FAILED, 1 skipped");
        assert!(!program(output).is_passed());
    }

    #[test]
    fn a_skipped_part_of_a_test_is_named_and_the_test_has_passed() {
        let output = "test whole ... ok\nskipped: part: no\ntest result: ok. 1 passed; 0 failed;";
        assert_eq!(summary([(output, true)]), "passed 1, failed 0, skipped 1 (part)");
    }

    #[test]
    fn lines_that_are_written_into_are_put_together() {
        let output = "test a ... skipped: b: no\nok\ntest skipped: c: no\nskipped: d: no\nb ... ok\ntest c ... ok\n\
                      test d ... ok\ntest result: ok. 4 passed; 0 failed;";
        assert_eq!(summary([(output, true)]), "passed 1, failed 0, skipped 3 (b, c, d)");
    }

    #[test]
    fn a_program_that_ends_early_has_failed() {
        assert_eq!(summary([("test a ... ok\n", true)]), "passed 0, failed 1 (x y (the program)), skipped 0");
        let output = "test result: ok. 1 passed; 0 failed;";
        assert_eq!(summary([(output, false)]), "passed 1, failed 1 (x y (the program)), skipped 0");
    }

    #[test]
    fn both_results_of_doc_tests_count() {
        let output = "test result: ok. 1 passed; 0 failed;\ntest result: ok. 2 passed; 0 failed;";
        assert_eq!(summary([(output, true)]), "passed 3, failed 0, skipped 0");
    }
}
