//! The list of cases in `tests/CASES.md` and the tests that cite it.

use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn every_case_of_the_list_is_cited_by_a_test_and_every_cited_case_is_in_the_list() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = std::fs::read_to_string(directory.join("CASES.md")).expect("the list of cases");
    let listed: Vec<u32> =
        list.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok()).collect();
    let cases: BTreeSet<u32> = listed.iter().copied().collect();
    assert_eq!(cases.len(), listed.len(), "a number is in the list twice");

    let tests = std::fs::read_dir(directory.join("tests/conformance")).expect("the tests");
    let mut cited = BTreeSet::new();
    for test in tests {
        let text = std::fs::read_to_string(test.expect("a test").path()).expect("the text of a test");
        for comment in text.lines().filter_map(|line| line.strip_prefix("/// Case")) {
            let numbers = comment.trim_start_matches('s').split([':', '.']).next().unwrap_or_default();
            cited
                .extend(numbers.split(|sign: char| !sign.is_ascii_digit()).filter_map(|word| word.parse::<u32>().ok()));
        }
    }
    assert_eq!(cited, cases);
}
