//! What templates read of this binary: gates, controllers, webhooks. Made from the code, so that it cannot be otherwise.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Once;

use kruise_common::gates::{self, Gate};
use kruise_manager::{catalogue, selection};
use kruise_webhook::configure::{self, Configuration, Target};
use serde::Serialize;
use serde_json::Value;

use crate::{chart, differs, updating};

/// Between these lines of the values stands one for every controller.
const BEGIN: &str = "  # <generated>\n";
const END: &str = "  # </generated>\n";

/// What templates read as `files/manager.yaml`.
#[derive(Serialize)]
struct Manager {
    /// Old names of gates.
    aliases: BTreeMap<&'static str, &'static str>,
    controllers: Vec<Controller>,
    /// CRDs whose objects the manager converts.
    conversions: Vec<&'static str>,
    dependencies: Vec<Dependency>,
    gates: BTreeMap<&'static str, GateOf>,
    /// Resources, by API group.
    kinds: BTreeMap<String, Vec<Kind>>,
    /// Which controller needs which, if that gate is on.
    needs: Vec<Need>,
    /// What the configurations hold, but for the authority.
    webhooks: BTreeMap<&'static str, Value>,
}

#[derive(Serialize)]
struct Controller {
    /// Its key below `controllers`.
    value: &'static str,
    flag: &'static str,
    definition: Option<&'static str>,
    /// Gates that must all be on.
    gates: Vec<&'static str>,
    workers: Option<String>,
}

#[derive(Serialize)]
struct Need {
    controller: &'static str,
    needs: &'static str,
    gate: &'static str,
}

#[derive(Serialize)]
struct Dependency {
    when: Vec<&'static str>,
    is: bool,
    then: Vec<&'static str>,
    becomes: bool,
}

#[derive(Serialize)]
struct GateOf {
    default: bool,
    /// As in `AllAlpha` and `AllBeta`.
    stage: String,
}

#[derive(Serialize)]
struct Kind {
    resource: String,
    scale: bool,
}

fn manager() -> Manager {
    let names = |gates: &[Gate]| gates.iter().map(|gate| gate.name()).collect();
    let controllers = catalogue::controllers();
    let known = |flag: &str| controllers.iter().any(|controller| controller.flag == flag);
    let dependency = |rule: &gates::Dependency| Dependency {
        when: names(rule.when),
        is: rule.is,
        then: names(rule.then),
        becomes: rule.becomes,
    };
    let gate = |gate: &Gate| {
        (gate.name(), GateOf { default: gate.default_enabled(), stage: format!("{:?}", gate.stage()) })
    };
    Manager {
        aliases: gates::ALIASES.iter().map(|(alias, gate)| (*alias, gate.name())).collect(),
        conversions: configure::CONVERSION_CRDS.iter().map(|crd| crd.name).collect(),
        dependencies: gates::DEPENDENCIES.iter().map(dependency).collect(),
        gates: Gate::ALL.iter().map(gate).collect(),
        kinds: kinds(),
        needs: selection::NEEDS
            .into_iter()
            .filter(|(controller, needs, _)| known(controller) && known(needs))
            .map(|(controller, needs, gate)| Need { controller, needs, gate: gate.name() })
            .collect(),
        webhooks: BTreeMap::from([
            ("mutating", webhooks(Configuration::Mutating)),
            ("validating", webhooks(Configuration::Validating)),
        ]),
        controllers: controllers
            .into_iter()
            .map(|controller| Controller {
                value: controller.name,
                flag: controller.flag,
                definition: controller.definition,
                gates: names(controller.gates),
                workers: controller.workers,
            })
            .collect(),
    }
}

fn kinds() -> BTreeMap<String, Vec<Kind>> {
    let mut kinds = BTreeMap::<_, Vec<_>>::new();
    for crd in kruise_api::crd::all() {
        let subresources = crd.spec.versions.iter().filter_map(|version| version.subresources.as_ref());
        let scale = subresources.into_iter().any(|subresources| subresources.scale.is_some());
        kinds.entry(crd.spec.group).or_default().push(Kind { resource: crd.spec.names.plural, scale });
    }
    for kinds in kinds.values_mut() {
        kinds.sort_by(|a, b| a.resource.cmp(&b.resource));
    }
    kinds
}

/// The entries as the manager itself would make them.
fn webhooks(configuration: Configuration) -> Value {
    let target = Target {
        namespace: kruise_api::crd::WEBHOOK_NAMESPACE.to_owned(),
        service: kruise_api::crd::WEBHOOK_SERVICE.to_owned(),
        host: None,
        ca_bundle: String::new(),
    };
    let mut made = configure::desired(configuration, configure::ENTRIES, None, &target, None).unwrap();
    for webhook in made["webhooks"].as_array_mut().unwrap() {
        webhook["clientConfig"].as_object_mut().unwrap().remove("caBundle");
    }
    made["webhooks"].take()
}

/// The values with one line for every controller in their place.
fn values(present: &str) -> String {
    let (before, rest) = present.split_once(BEGIN).expect("the place of the controllers");
    let (_, after) = rest.split_once(END).expect("the end of the controllers");
    let lines: Vec<_> = catalogue::controllers()
        .iter()
        .map(|controller| {
            let workers = controller.workers.as_ref().map_or("", |_| ", workers: null");
            format!("  {}: {{enabled: true{workers}}}\n", controller.name)
        })
        .collect();
    format!("{before}{BEGIN}{}{END}{after}", lines.concat())
}

/// The files of the chart that are made from this binary, as they must be.
fn files() -> [(PathBuf, String); 3] {
    let value = serde_json::to_value(manager()).unwrap();
    let text = format!(
        "# Generated: UPDATE_CHART=1 cargo test -p kruise-manager --test chart\n---\n{}",
        serde_yaml_ng::to_string(&value).unwrap()
    );
    let values_file = chart().join("values.yaml");
    let values = values(&fs::read_to_string(&values_file).unwrap());
    // Templates cannot read the chart's own values, and need its defaults where `null` took one away.
    let defaults = (chart().join("files/values.yaml"), values.clone());
    [(chart().join("files/manager.yaml"), text), (values_file, values), defaults]
}

/// Writes them, before anything is rendered.
pub(crate) fn update() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (path, text) in files() {
            fs::write(path, text).unwrap();
        }
    });
}

#[test]
fn the_chart_knows_the_gates_controllers_and_webhooks_of_this_binary() {
    if updating() {
        update();
    }
    for (path, text) in files() {
        assert!(!text.contains("caBundle:"), "an authority is nobody's to hand out");
        assert_eq!(differs(&path, &text), None);
    }
}

#[test]
fn the_chart_installs_this_version() {
    let chart: Value =
        serde_yaml_ng::from_str(&fs::read_to_string(chart().join("Chart.yaml")).unwrap()).unwrap();
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
}
