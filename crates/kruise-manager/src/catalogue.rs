//! What others have to know of this binary to run it: the chart is made from this.

use clap::CommandFactory as _;
use kruise_common::gates::Gate;

use crate::flags::Flags;
use crate::selection;
use crate::table::TABLE;

/// A controller that is built.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Controller {
    /// Its name in `--controllers`.
    pub flag: &'static str,
    /// The name by which people know it: the longer one, where it has two.
    pub name: &'static str,
    /// The CustomResourceDefinition of what it reconciles; none where that is built into Kubernetes.
    pub definition: Option<&'static str>,
    /// Gates that must all be on.
    pub gates: &'static [Gate],
    /// The flag that says how many objects are reconciled in parallel, without dashes.
    pub workers: Option<String>,
}

/// Every controller that is built, in the order of names.
pub fn controllers() -> Vec<Controller> {
    let flags = Flags::command();
    // Flags of what is not built are accepted, and hidden.
    let has_effect = |name: &String| {
        flags.get_arguments().any(|flag| flag.get_long() == Some(name.as_str()) && !flag.is_hide_set())
    };
    let (long, short) = selection::ALIAS;
    let mut controllers: Vec<_> = TABLE
        .iter()
        .map(|entry| Controller {
            flag: entry.flag,
            name: if entry.flag == short { long } else { entry.flag },
            definition: entry.definition,
            gates: entry.gates,
            workers: Some(format!("{}-workers", entry.flag)).filter(has_effect),
        })
        .collect();
    controllers.sort_by_key(|controller| controller.name);
    controllers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection::Selection;

    #[test]
    fn every_controller_can_be_switched_by_both_its_names() {
        for controller in controllers() {
            for name in [controller.flag, controller.name] {
                assert!(!Selection::parse(&format!("*,-{name}")).unwrap().is_on(controller.flag), "{name}");
            }
        }
    }

    #[test]
    fn only_flags_that_have_an_effect_are_told() {
        let workers = |name| {
            let found = controllers().into_iter().find(|controller| controller.name == name).unwrap();
            found.workers
        };
        assert_eq!(workers("cloneset").as_deref(), Some("cloneset-workers"));
        assert_eq!(workers("containerrecreaterequest").as_deref(), Some("crr-workers"));
        assert_eq!(workers("imagelistpulljob"), None);
    }
}
