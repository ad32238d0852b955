//! Defaults of pod and claim templates, filled in on raw JSON.
//!
//! Only unset fields are written, so a field this build has never heard of survives. "Unset" is what it is for the
//! API server: absent, `null`, and for plain strings and probe numbers also the empty string and zero.

use serde_json::{Map, Value};

/// What the caller's feature gates ask for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TemplateDefaults {
    /// Gate `DefaultHostNetworkHostPortsInPodTemplates`: a host-network container port is its own host port.
    pub host_network_ports: bool,
}

/// Fills in the defaults of one `PodTemplateSpec`; a template without a `spec` object is left as it is.
pub fn apply(template: &mut Value, options: TemplateDefaults) {
    let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) else { return };
    default_string(spec, "dnsPolicy", "ClusterFirst");
    default_string(spec, "restartPolicy", "Always");
    default_string(spec, "schedulerName", "default-scheduler");
    default_value(spec, "securityContext", || Value::Object(Map::new()));
    default_value(spec, "terminationGracePeriodSeconds", || Value::from(30));
    round_quantities(spec.get_mut("overhead"));

    let host_ports = options.host_network_ports && spec.get("hostNetwork") == Some(&Value::Bool(true));
    for container in objects(spec.get_mut("containers")) {
        default_string(container, "imagePullPolicy", "Always");
        default_termination_message(container);
        default_any_container(container);
        default_host_ports(container, host_ports);
    }
    for container in objects(spec.get_mut("initContainers")) {
        let policy = init_pull_policy(container.get("image").and_then(Value::as_str).unwrap_or_default());
        default_string(container, "imagePullPolicy", policy);
        default_termination_message(container);
        default_any_container(container);
        default_host_ports(container, host_ports);
    }
    for container in objects(spec.get_mut("ephemeralContainers")) {
        default_any_container(container);
    }
    for volume in objects(spec.get_mut("volumes")) {
        default_volume(volume);
    }
}

/// Fills in the defaults of `volumeClaimTemplates`: the phase and rounded quantities; `volumeMode` stays as it is.
pub fn apply_to_claims(claims: &mut [Value]) {
    for claim in claims.iter_mut().filter_map(Value::as_object_mut) {
        default_value(claim, "status", || Value::Object(Map::new()));
        if let Some(status) = object(claim.get_mut("status")) {
            default_string(status, "phase", "Pending");
        }
        if let Some(spec) = object(claim.get_mut("spec")) {
            default_resources(spec);
        }
    }
}

fn default_termination_message(container: &mut Map<String, Value>) {
    default_string(container, "terminationMessagePath", "/dev/termination-log");
    default_string(container, "terminationMessagePolicy", "File");
}

fn default_any_container(container: &mut Map<String, Value>) {
    for port in objects(container.get_mut("ports")) {
        default_string(port, "protocol", "TCP");
    }
    for variable in objects(container.get_mut("env")) {
        if let Some(source) = object(variable.get_mut("valueFrom")) {
            default_field_ref(source);
        }
    }
    default_resources(container);
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = object(container.get_mut(kind)) {
            default_number(probe, "timeoutSeconds", 1);
            default_number(probe, "periodSeconds", 10);
            default_number(probe, "successThreshold", 1);
            default_number(probe, "failureThreshold", 3);
            default_http_get(probe);
        }
    }
    if let Some(lifecycle) = object(container.get_mut("lifecycle")) {
        for kind in ["postStart", "preStop"] {
            if let Some(hook) = object(lifecycle.get_mut(kind)) {
                default_http_get(hook);
            }
        }
    }
}

fn default_host_ports(container: &mut Map<String, Value>, host_ports: bool) {
    if !host_ports {
        return;
    }
    for port in objects(container.get_mut("ports")) {
        let Some(number) = port.get("containerPort").and_then(Value::as_i64).filter(|number| *number != 0)
        else {
            continue;
        };
        default_number(port, "hostPort", number);
    }
}

fn default_http_get(handler: &mut Map<String, Value>) {
    if let Some(http) = object(handler.get_mut("httpGet")) {
        default_string(http, "path", "/");
        default_string(http, "scheme", "HTTP");
    }
}

fn default_resources(holder: &mut Map<String, Value>) {
    if let Some(resources) = object(holder.get_mut("resources")) {
        round_quantities(resources.get_mut("limits"));
        round_quantities(resources.get_mut("requests"));
    }
}

fn default_volume(volume: &mut Map<String, Value>) {
    // Any other key counts as a source: one this build does not know must not get an emptyDir beside it.
    if !volume.iter().any(|(key, value)| key != "name" && !value.is_null()) {
        volume.insert("emptyDir".to_owned(), Value::Object(Map::new()));
    }
    if let Some(path) = object(volume.get_mut("hostPath")) {
        default_value(path, "type", || Value::from(""));
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = object(volume.get_mut(kind)) {
            default_value(source, "defaultMode", || Value::from(0o644));
        }
    }
    if let Some(source) = object(volume.get_mut("downwardAPI")) {
        default_downward_items(source);
    }
    if let Some(projected) = object(volume.get_mut("projected")) {
        for source in objects(projected.get_mut("sources")) {
            if let Some(downward) = object(source.get_mut("downwardAPI")) {
                default_downward_items(downward);
            }
            if let Some(token) = object(source.get_mut("serviceAccountToken")) {
                default_value(token, "expirationSeconds", || Value::from(3600));
            }
        }
    }
}

fn default_downward_items(source: &mut Map<String, Value>) {
    for item in objects(source.get_mut("items")) {
        default_field_ref(item);
    }
}

fn default_field_ref(holder: &mut Map<String, Value>) {
    if let Some(field) = object(holder.get_mut("fieldRef")) {
        default_string(field, "apiVersion", "v1");
    }
}

/// Kubernetes' own rule: a floating tag is always pulled; a digest without a tag counts as a fixed one.
fn init_pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or_default();
    match (last.split_once(':'), digest) {
        (Some((_, "latest")), _) => "Always",
        (None, None) if !image.is_empty() => "Always",
        _ => "IfNotPresent",
    }
}

fn object(value: Option<&mut Value>) -> Option<&mut Map<String, Value>> {
    value.and_then(Value::as_object_mut)
}

fn objects(value: Option<&mut Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    value.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

fn default_value(holder: &mut Map<String, Value>, key: &str, value: impl FnOnce() -> Value) {
    if holder.get(key).is_none_or(Value::is_null) {
        holder.insert(key.to_owned(), value());
    }
}

fn default_string(holder: &mut Map<String, Value>, key: &str, value: &str) {
    if holder.get(key).is_none_or(|present| present.is_null() || present == "") {
        holder.insert(key.to_owned(), Value::from(value));
    }
}

fn default_number(holder: &mut Map<String, Value>, key: &str, value: i64) {
    if holder.get(key).is_none_or(|present| present.is_null() || present == 0) {
        holder.insert(key.to_owned(), Value::from(value));
    }
}

fn round_quantities(list: Option<&mut Value>) {
    for quantity in object(list).into_iter().flat_map(Map::values_mut) {
        let text = match &*quantity {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => continue,
        };
        if let Some(rounded) = round_up_to_milli(&text) {
            *quantity = Value::String(rounded);
        }
    }
}

/// The quantity rounded up to thousandths; `None` if it already is a whole number of them, or is no quantity.
fn round_up_to_milli(text: &str) -> Option<String> {
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let mantissa: u128 = format!("0{whole}{fraction}").parse().ok()?;
    let (binary, exponent) = scale(suffix)?;
    // Thousandths: mantissa * 1024^binary * 10^(exponent + 3 - digits of the fraction).
    let numerator = mantissa.checked_mul(1024_u128.checked_pow(binary)?)?;
    let power = exponent.checked_add(3)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    if power >= 0 {
        return None;
    }
    // A divisor too large for the type is far larger than any numerator that fits it.
    let thousandths = match 10_u128.checked_pow(power.unsigned_abs()) {
        Some(divisor) if numerator.is_multiple_of(divisor) => return None,
        Some(divisor) => numerator.div_ceil(divisor),
        None if numerator == 0 => return None,
        None => 1,
    };
    Some(if thousandths.is_multiple_of(1000) {
        format!("{sign}{}", thousandths / 1000)
    } else {
        format!("{sign}{thousandths}m")
    })
}

/// The suffix of a quantity as a power of 1024 and a power of ten.
fn scale(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (1, 0),
        "Mi" => (2, 0),
        "Gi" => (3, 0),
        "Ti" => (4, 0),
        "Pi" => (5, 0),
        "Ei" => (6, 0),
        _ => (0, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const OFF: TemplateDefaults = TemplateDefaults { host_network_ports: false };

    fn defaulted(mut template: Value) -> Value {
        apply(&mut template, OFF);
        template
    }

    /// The template after defaulting, seen from one place inside its `spec`.
    fn at(spec: &Value, pointer: &str) -> Value {
        defaulted(json!({ "spec": spec })).pointer(&format!("/spec{pointer}")).cloned().unwrap()
    }

    #[test]
    fn an_empty_pod_spec_gets_exactly_five_fields() {
        assert_eq!(
            defaulted(json!({ "spec": {} })),
            json!({ "spec": {
                "dnsPolicy": "ClusterFirst",
                "restartPolicy": "Always",
                "schedulerName": "default-scheduler",
                "securityContext": {},
                "terminationGracePeriodSeconds": 30,
            }})
        );
    }

    #[test]
    fn what_the_user_set_stays() {
        let spec = json!({ "dnsPolicy": "None", "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "schedulerName": "mine", "securityContext": { "runAsUser": 1 }, "notInventedYet": { "a": [1] } });
        assert_eq!(defaulted(json!({ "spec": spec })), json!({ "spec": spec }));
    }

    #[test]
    fn a_template_that_is_not_one_is_left_alone() {
        for odd in [json!(null), json!(7), json!({}), json!({ "spec": [] }), json!({ "spec": null })] {
            assert_eq!(defaulted(odd.clone()), odd);
        }
    }

    #[test]
    fn containers_always_pull_and_init_containers_follow_the_tag() {
        assert_eq!(
            at(&json!({ "containers": [{ "image": "a:1" }] }), "/containers/0"),
            json!({ "image": "a:1", "imagePullPolicy": "Always", "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File" })
        );
        for (image, policy) in [
            ("busybox", "Always"),
            ("busybox:latest", "Always"),
            ("registry:5000/busybox", "Always"),
            ("registry:5000/busybox:1", "IfNotPresent"),
            ("busybox@sha256:aa", "IfNotPresent"),
            ("busybox:latest@sha256:aa", "Always"),
            ("", "IfNotPresent"),
        ] {
            let container = at(&json!({ "initContainers": [{ "image": image }] }), "/initContainers/0");
            assert_eq!(container["imagePullPolicy"], policy, "{image}");
            assert_eq!(container["terminationMessagePolicy"], "File");
        }
    }

    #[test]
    fn every_kind_of_container_gets_ports_references_and_probes() {
        for list in ["containers", "initContainers", "ephemeralContainers"] {
            let container = at(
                &json!({ list: [{
                    "ports": [{ "containerPort": 80 }, { "protocol": "UDP" }],
                    "env": [{ "name": "A", "value": "" }, { "valueFrom": { "fieldRef": { "fieldPath": "x" } } }],
                    "resources": { "limits": { "cpu": "100u", "memory": "1Gi" }, "requests": { "cpu": 0.0015 } },
                    "livenessProbe": { "httpGet": { "port": 1 } },
                    "readinessProbe": { "timeoutSeconds": 5, "exec": {} },
                    "startupProbe": { "tcpSocket": {} },
                    "lifecycle": { "preStop": { "httpGet": { "path": "/bye" } }, "postStart": { "httpGet": {} } },
                }] }),
                &format!("/{list}/0"),
            );
            assert_eq!(
                container["ports"],
                json!([{ "containerPort": 80, "protocol": "TCP" }, { "protocol": "UDP" }])
            );
            assert_eq!(
                container["env"],
                json!([{ "name": "A", "value": "" }, { "valueFrom": { "fieldRef": { "fieldPath": "x", "apiVersion": "v1" } } }])
            );
            assert_eq!(
                container["resources"],
                json!({ "limits": { "cpu": "1m", "memory": "1Gi" }, "requests": { "cpu": "2m" } })
            );
            assert_eq!(
                container["livenessProbe"],
                json!({ "httpGet": { "port": 1, "path": "/", "scheme": "HTTP" }, "timeoutSeconds": 1, "periodSeconds": 10,
                    "successThreshold": 1, "failureThreshold": 3 })
            );
            assert_eq!(container["readinessProbe"]["timeoutSeconds"], 5);
            assert_eq!(container["startupProbe"]["failureThreshold"], 3);
            assert_eq!(
                container["lifecycle"],
                json!({ "preStop": { "httpGet": { "path": "/bye", "scheme": "HTTP" } },
                    "postStart": { "httpGet": { "path": "/", "scheme": "HTTP" } } })
            );
        }
        let ephemeral = at(&json!({ "ephemeralContainers": [{ "image": "a" }] }), "/ephemeralContainers/0");
        assert_eq!(ephemeral, json!({ "image": "a" }));
    }

    #[test]
    fn volumes_get_a_source_modes_and_reference_versions() {
        for (volume, want) in [
            (json!({ "name": "a" }), json!({ "name": "a", "emptyDir": {} })),
            (
                json!({ "name": "a", "hostPath": { "path": "/" } }),
                json!({ "name": "a", "hostPath": { "path": "/", "type": "" } }),
            ),
            (json!({ "secret": {} }), json!({ "secret": { "defaultMode": 420 } })),
            (json!({ "configMap": { "defaultMode": 0 } }), json!({ "configMap": { "defaultMode": 0 } })),
            (
                json!({ "downwardAPI": { "items": [{ "fieldRef": {} }] } }),
                json!({ "downwardAPI": { "defaultMode": 420, "items": [{ "fieldRef": { "apiVersion": "v1" } }] } }),
            ),
            (
                json!({ "projected": { "sources": [{ "serviceAccountToken": {} }, { "downwardAPI": { "items": [{ "fieldRef": {} }] } }] } }),
                json!({ "projected": { "defaultMode": 420, "sources": [{ "serviceAccountToken": { "expirationSeconds": 3600 } },
                    { "downwardAPI": { "items": [{ "fieldRef": { "apiVersion": "v1" } }] } }] } }),
            ),
            (json!({ "name": "a", "futureSource": {} }), json!({ "name": "a", "futureSource": {} })),
        ] {
            assert_eq!(at(&json!({ "volumes": [volume] }), "/volumes/0"), want);
        }
    }

    #[test]
    fn host_ports_follow_only_with_the_gate_and_host_network() {
        for (gate, host_network, want) in
            [(true, true, json!(80)), (true, false, json!(null)), (false, true, json!(null))]
        {
            let mut template = json!({ "spec": { "hostNetwork": host_network,
                "containers": [{ "ports": [{ "containerPort": 80 }] }],
                "initContainers": [{ "ports": [{ "containerPort": 80 }, { "containerPort": 81, "hostPort": 1 }] }] } });
            apply(&mut template, TemplateDefaults { host_network_ports: gate });
            assert_eq!(template["spec"]["containers"][0]["ports"][0]["hostPort"], want);
            assert_eq!(template["spec"]["initContainers"][0]["ports"][0]["hostPort"], want);
            assert_eq!(template["spec"]["initContainers"][0]["ports"][1]["hostPort"], 1);
        }
    }

    #[test]
    fn quantities_below_a_thousandth_are_rounded_up_and_others_keep_their_spelling() {
        for (text, want) in [
            ("100m", None),
            ("1", None),
            ("1.5", None),
            ("1.500", None),
            ("0.1Gi", None),
            ("1e3", None),
            ("", None),
            ("abc", None),
            ("1.2.3", None),
            ("1n", Some("1m".to_owned())),
            ("1500u", Some("2m".to_owned())),
            ("0.9999", Some("1".to_owned())),
            ("1.0005", Some("1001m".to_owned())),
            ("1e-6", Some("1m".to_owned())),
            ("0n", None),
            ("-1u", Some("-1m".to_owned())),
            ("999999999999999999999999999999999999999999", None),
        ] {
            assert_eq!(round_up_to_milli(text), want, "{text}");
        }
        assert_eq!(at(&json!({ "overhead": { "cpu": "1u" } }), "/overhead"), json!({ "cpu": "1m" }));
    }

    #[test]
    fn claims_get_a_phase_and_nothing_else() {
        let mut claims = vec![
            json!({ "metadata": { "name": "data" }, "spec": { "resources": { "requests": { "storage": "1Gi" } } } }),
            json!({ "status": { "phase": "Bound" } }),
            json!(3),
        ];
        apply_to_claims(&mut claims);
        assert_eq!(
            claims,
            vec![
                json!({ "metadata": { "name": "data" }, "spec": { "resources": { "requests": { "storage": "1Gi" } } },
                    "status": { "phase": "Pending" } }),
                json!({ "status": { "phase": "Bound" } }),
                json!(3),
            ]
        );
    }

    /// Any JSON, with the keys defaulting looks at turning up often.
    fn any_json() -> impl Strategy<Value = Value> {
        const KEYS: &[&str] = &[
            "spec",
            "containers",
            "initContainers",
            "ephemeralContainers",
            "volumes",
            "ports",
            "env",
            "valueFrom",
            "fieldRef",
            "resources",
            "limits",
            "livenessProbe",
            "httpGet",
            "lifecycle",
            "preStop",
            "secret",
            "projected",
            "sources",
            "downwardAPI",
            "items",
            "hostPort",
            "containerPort",
            "hostNetwork",
            "name",
            "image",
            "overhead",
            "status",
            "other",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z0-9.:-]{0,6}".prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(7, 96, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((prop::sample::select(KEYS), inner), 0..6).prop_map(|pairs| {
                    Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
                }),
            ]
        })
    }

    /// True if everything set in `old` is still there; quantities may have been rounded.
    fn keeps(old: &Value, new: &Value, quantity: bool) -> bool {
        match (old, new) {
            (Value::Null, _) => true,
            (Value::Object(old), Value::Object(new)) => old.iter().all(|(key, value)| {
                let quantities = ["limits", "requests", "overhead"].contains(&key.as_str());
                new.get(key).is_some_and(|new| keeps(value, new, quantity || quantities))
            }),
            (Value::Array(old), Value::Array(new)) => {
                old.len() == new.len() && old.iter().zip(new).all(|(old, new)| keeps(old, new, quantity))
            }
            (old, new) => old == new || quantity || old == "" || old == 0,
        }
    }

    proptest! {
        #[test]
        fn defaulting_twice_is_defaulting_once(spec in any_json(), host_network_ports: bool) {
            let options = TemplateDefaults { host_network_ports };
            let mut once = json!({ "spec": spec });
            apply(&mut once, options);
            let mut twice = once.clone();
            apply(&mut twice, options);
            prop_assert_eq!(once, twice);
        }

        #[test]
        fn nothing_that_was_set_is_lost(spec in any_json(), host_network_ports: bool) {
            let old = json!({ "spec": spec });
            let mut new = old.clone();
            apply(&mut new, TemplateDefaults { host_network_ports });
            prop_assert!(keeps(&old, &new, false), "{old} became {new}");
        }

        #[test]
        fn claims_lose_nothing_and_come_to_rest(claims in prop::collection::vec(any_json(), 0..3)) {
            let mut once = claims.clone();
            apply_to_claims(&mut once);
            prop_assert!(keeps(&Value::from(claims), &Value::from(once.clone()), false));
            let mut twice = once.clone();
            apply_to_claims(&mut twice);
            prop_assert_eq!(once, twice);
        }
    }
}
