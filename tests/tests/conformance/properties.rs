//! Properties of every stack, tested on random ones. A failing stack is printed as the text of a case.

use std::path::Path;

use end_to_end::conformance::flatten::flatten;
use end_to_end::conformance::overlayfs::{Privilege, lines, shown_by_overlayfs};
use end_to_end::conformance::stack::Stack;
use end_to_end::conformance::subject::Subject;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::random::{stacks, without_collisions};

/// Tests a property on random stacks. A failing stack is shrunk and printed.
fn hold_for(count: u32, property: impl Fn(&Stack) -> Result<(), TestCaseError>) {
    hold_for_each(count, stacks(), |stack| property(&stack));
}

fn hold_for_each<S: Strategy>(count: u32, strategy: S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { cases: count, failure_persistence: None, max_shrink_iters: 4000, ..Config::default() };
    if let Err(error) = TestRunner::new(config).run(&strategy, property) {
        panic!("{error}");
    }
}

fn equal(expected: &Stack, shown: &Stack, subject: &Subject) -> Result<(), TestCaseError> {
    let fail = |error: anyhow::Error| TestCaseError::fail(format!("{error:#}\n{expected}\nand\n{shown}"));
    let (left, right) = (subject.shown(expected).map_err(fail)?, subject.shown(shown).map_err(fail)?);
    let difference = left.difference(&right);
    prop_assert!(difference.is_empty(), "{difference}\n{expected}\nand\n{shown}");
    Ok(())
}

#[test]
fn view_of_a_random_stack_is_what_the_model_says() {
    let subject = Subject::new().expect("a store in memory");
    hold_for(2000, |stack| {
        let expected = stack.expected().map_err(|error| TestCaseError::fail(format!("{error:#}\n{stack}")))?;
        let shown = subject.shown(stack).map_err(|error| TestCaseError::fail(format!("{error:#}\n{stack}")))?;
        let difference = expected.difference(&shown);
        prop_assert!(difference.is_empty(), "(- expected, + shown)\n{difference}\n{stack}");
        Ok(())
    });
}

#[test]
fn kernel_overlayfs_shows_of_a_random_stack_what_the_model_says() {
    let oracle = Path::new(env!("CARGO_BIN_EXE_overlay-oracle"));
    for &privilege in Privilege::available() {
        hold_for(100, |stack| {
            let fail = |error: anyhow::Error| TestCaseError::fail(format!("{error:#}\n{stack}"));
            let expected = stack.expected().map_err(fail)?;
            let expected = lines(&privilege.comparable(expected).to_string());
            let shown = shown_by_overlayfs(oracle, privilege, stack).map_err(fail)?;
            prop_assert_eq!(expected, shown, "{}", stack);
            Ok(())
        });
    }
}

#[test]
fn order_of_entries_in_a_layer_changes_nothing() {
    let subject = Subject::new().expect("a store in memory");
    let shuffled = stacks().prop_map(|stack| without_collisions(&stack)).prop_flat_map(|stack| {
        let layers: Vec<_> = stack.layers.iter().map(|layer| Just(layer.entries.clone()).prop_shuffle()).collect();
        (Just(stack), layers)
    });
    hold_for_each(500, shuffled, |(stack, entries)| {
        // A link whose target was removed with the collisions is refused in any order. Which symbolic links a target leads
        // through depends on what the layer has replaced before it.
        prop_assume!(stack.expected().is_ok() && !stack.may_link_through_symlinks());
        let mut other = stack.clone();
        other.layers.iter_mut().zip(entries).for_each(|(layer, entries)| layer.entries = entries);
        equal(&stack, &other, &subject)
    });
}

#[test]
fn merging_is_associative() {
    let subject = Subject::new().expect("a store in memory");
    hold_for_each(500, (stacks(), any::<prop::sample::Index>()), |(stack, place)| {
        // Which symbolic links the target of a hard link leads through depends on where a layer ends.
        prop_assume!(stack.layers.len() >= 2 && !stack.may_link_through_symlinks());
        let lower = place.index(stack.layers.len() - 1);
        let both = flatten(&stack.layers[lower], &stack.layers[lower + 1])
            .map_err(|error| TestCaseError::fail(format!("{error:#}\n{stack}")))?;
        // Some pairs cannot be written as one tar, such as a link to what the same tar replaces, or a parent without
        // content.
        let Some(both) = both else { return Err(TestCaseError::reject("not expressible")) };
        let mut flat = stack.clone();
        flat.layers.splice(lower..lower + 2, [both]);
        equal(&stack, &flat, &subject)
    });
}
