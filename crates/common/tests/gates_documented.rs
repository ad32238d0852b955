//! `docs/feature-gates.md` says what the code does.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use kruise_common::gates::{FeatureGates, Gate, Stage};

fn page() -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/feature-gates.md");
    std::fs::read_to_string(path).unwrap()
}

/// The rows of the table whose header begins with `first`, cell by cell.
fn table(first: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let page = page();
    let mut lines = page.lines().skip_while(|line| !line.starts_with(&format!("| {first} |")));
    assert!(lines.next().is_some() && lines.next().is_some(), "no table {first}");
    lines.take_while(|line| line.starts_with('|')).map(cells).collect()
}

fn word(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

#[test]
fn the_table_names_every_gate_with_its_default_and_stage_in_order() {
    let expected: Vec<Vec<String>> = Gate::ALL
        .iter()
        .map(|gate| {
            let stage = match gate.stage() {
                Stage::Alpha => "alpha",
                Stage::Beta => "beta",
            };
            let name = format!("`{}`", gate.name());
            vec![name, word(gate.default_enabled()), stage.to_owned(), gate.about().to_owned()]
        })
        .collect();
    assert_eq!(table("Gate"), expected);
}

#[test]
fn every_documented_rule_is_applied_and_no_other() {
    let names =
        |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let rules = table("If");
    // A rule alone: its cause is set, and everything it changes is set the other way before.
    for rule in &rules {
        let [causes, is, effects, become_] = rule.as_slice() else { panic!("{rule:?}") };
        for cause in names(causes) {
            let opposite = if become_ == "on" { "false" } else { "true" };
            let mut flag = vec![format!("{cause}={}", is == "on")];
            flag.extend(names(effects).iter().map(|effect| format!("{effect}={opposite}")));
            let parsed = FeatureGates::parse(&[flag.join(",")]).unwrap();
            let mut changed: Vec<&str> = parsed
                .overrides
                .iter()
                .filter(|it| it.because.name() == cause)
                .map(|it| it.gate.name())
                .collect();
            let mut documented = names(effects);
            changed.sort_unstable();
            documented.sort_unstable();
            assert_eq!(changed, documented, "{flag:?}");
            for effect in &documented {
                let gate = Gate::from_name(effect).unwrap();
                assert_eq!(word(parsed.gates.enabled(gate)), *become_, "{effect} after {flag:?}");
            }
        }
    }
    // No cause is missing: whatever one gate changes is documented under it.
    let causes: Vec<String> = rules.iter().flat_map(|rule| names(&rule[0])).collect();
    for gate in Gate::ALL {
        for value in [true, false] {
            for rest in ["AllAlpha=true,AllBeta=true", "AllAlpha=false,AllBeta=false"] {
                let flag = format!("{rest},{}={value}", gate.name());
                for change in FeatureGates::parse(&[flag]).unwrap().overrides {
                    assert!(causes.iter().any(|cause| cause == change.because.name()), "{change}");
                }
            }
        }
    }
}
