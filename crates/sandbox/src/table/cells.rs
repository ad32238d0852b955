//! The rows of built-in kinds, in the order of their columns.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::since;

/// Makes the cells of one row.
pub(super) type Printer = fn(Cx<'_>) -> Vec<Value>;

/// What a row is made of.
#[derive(Clone, Copy)]
pub(super) struct Cx<'a> {
    pub(super) object: &'a Value,
    pub(super) now: Timestamp,
}

impl<'a> Cx<'a> {
    pub(super) fn name(self) -> Value {
        self.text("/metadata/name").into()
    }

    pub(super) fn age(self) -> Value {
        self.since("/metadata/creationTimestamp").into()
    }

    fn text(self, pointer: &str) -> &'a str {
        text(self.object, pointer)
    }

    fn cell(self, pointer: &str) -> Value {
        self.text(pointer).into()
    }

    fn number(self, pointer: &str) -> Value {
        number(self.object, pointer).into()
    }

    fn count(self, pointer: &str) -> i64 {
        count(self.object, pointer)
    }

    fn is_true(self, pointer: &str) -> bool {
        self.object.pointer(pointer) == Some(&Value::Bool(true))
    }

    fn since(self, pointer: &str) -> String {
        self.text(pointer).parse().map_or_else(|_| "<unknown>".to_owned(), |time| since(time, self.now))
    }

    /// Names and images of containers.
    fn containers(self, pointer: &str) -> [Value; 2] {
        let join = |field: &str| {
            let containers = items(self.object, pointer).iter();
            containers.map(|container| text(container, field)).collect::<Vec<_>>().join(",")
        };
        [join("/name").into(), join("/image").into()]
    }

    fn labels(self, pointer: &str) -> Value {
        labels(self.object.pointer(pointer)).into()
    }

    fn selector(self, pointer: &str) -> Value {
        or_none(&selector(self.object.pointer(pointer)))
    }
}

pub(super) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

pub(super) fn items<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn or_none(text: &str) -> Value {
    or(text, "<none>")
}

fn or(text: &str, otherwise: &str) -> Value {
    if text.is_empty() { otherwise.into() } else { text.into() }
}

fn count(value: &Value, pointer: &str) -> i64 {
    match value.pointer(pointer) {
        Some(Value::Array(items)) => items.len() as i64,
        Some(Value::Object(fields)) => fields.len() as i64,
        _ => 0,
    }
}

/// A number or text as text.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn join(value: &Value, pointer: &str, separator: &str) -> String {
    items(value, pointer).iter().map(plain).collect::<Vec<_>>().join(separator)
}

/// The first three of a list, and how many more there are.
fn first_three(list: &[String], empty: &str) -> String {
    let shown = list.iter().take(3).cloned().collect::<Vec<_>>().join(",");
    match list.len() {
        0 => empty.to_owned(),
        1..=3 => shown,
        more => format!("{shown} + {} more...", more - 3),
    }
}

fn labels(map: Option<&Value>) -> String {
    let labels: Vec<_> = map
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", plain(value)))
        .collect();
    if labels.is_empty() { "<none>".to_owned() } else { labels.join(",") }
}

/// A label selector as text; empty if it selects everything.
fn selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return String::new() };
    let labels = selector.pointer("/matchLabels").and_then(Value::as_object).into_iter().flatten();
    let mut terms: Vec<(&str, String)> =
        labels.map(|(name, value)| (name.as_str(), format!("{name}={}", plain(value)))).collect();
    for term in items(selector, "/matchExpressions") {
        let key = text(term, "/key");
        let mut values: Vec<String> = items(term, "/values").iter().map(plain).collect();
        values.sort();
        let values = values.join(",");
        let shown = match text(term, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        terms.push((key, shown));
    }
    terms.sort_by_key(|(key, _)| *key);
    terms.into_iter().map(|(_, shown)| shown).collect::<Vec<_>>().join(",")
}

/// What prints a kind, by `group/version/Kind`; `None` if only name and creation time are shown.
pub(super) fn printer(kind: &str) -> Option<Printer> {
    Some(match kind {
        "v1/ConfigMap" => |cx| {
            let data = cx.count("/data") + cx.count("/binaryData");
            vec![cx.name(), data.into(), cx.age()]
        },
        "v1/Secret" => |cx| vec![cx.name(), cx.cell("/type"), cx.count("/data").into(), cx.age()],
        "v1/ServiceAccount" => |cx| vec![cx.name(), cx.count("/secrets").into(), cx.age()],
        "v1/Namespace" => |cx| vec![cx.name(), cx.cell("/status/phase"), cx.age()],
        "autoscaling/v1/Scale" => {
            |cx| vec![cx.name(), cx.number("/spec/replicas"), cx.number("/status/replicas"), cx.age()]
        }
        "v1/Node" => node,
        "v1/Service" => service,
        "v1/Endpoints" => |cx| vec![cx.name(), endpoints(cx.object).into(), cx.age()],
        "v1/Event" => |cx| event(cx, &CORE_EVENT),
        "events.k8s.io/v1/Event" => |cx| event(cx, &NEW_EVENT),
        "v1/PersistentVolume" => volume,
        "v1/PersistentVolumeClaim" => claim,
        "v1/ReplicationController" => |cx| replicas(cx, cx.labels("/spec/selector")),
        "apps/v1/ReplicaSet" => |cx| replicas(cx, cx.selector("/spec/selector")),
        "v1/ResourceQuota" => quota,
        "v1/PodTemplate" => |cx| {
            let [names, images] = cx.containers("/template/spec/containers");
            vec![cx.name(), names, images, cx.labels("/template/metadata/labels")]
        },
        "apps/v1/Deployment" => deployment,
        "apps/v1/StatefulSet" => |cx| {
            let ready = format!("{}/{}", cx.number("/status/readyReplicas"), cx.number("/spec/replicas"));
            let [names, images] = cx.containers("/spec/template/spec/containers");
            vec![cx.name(), ready.into(), cx.age(), names, images]
        },
        "apps/v1/DaemonSet" => daemon_set,
        "apps/v1/ControllerRevision" => revision,
        "batch/v1/Job" => job,
        "batch/v1/CronJob" => cron_job,
        "autoscaling/v2/HorizontalPodAutoscaler" => |cx| autoscaler(cx, &metrics(cx.object)),
        "autoscaling/v1/HorizontalPodAutoscaler" => |cx| autoscaler(cx, &cpu_metric(cx.object)),
        "policy/v1/PodDisruptionBudget" => |cx| {
            let bound = |pointer: &str| cx.object.pointer(pointer).map_or_else(|| "N/A".to_owned(), plain);
            let (least, most) = (bound("/spec/minAvailable"), bound("/spec/maxUnavailable"));
            vec![cx.name(), least.into(), most.into(), cx.number("/status/disruptionsAllowed"), cx.age()]
        },
        "networking.k8s.io/v1/Ingress" => ingress,
        "networking.k8s.io/v1/IngressClass" => ingress_class,
        "networking.k8s.io/v1/NetworkPolicy" => {
            |cx| vec![cx.name(), cx.selector("/spec/podSelector"), cx.age()]
        }
        "networking.k8s.io/v1/IPAddress" => ip_address,
        "networking.k8s.io/v1/ServiceCIDR" => {
            |cx| vec![cx.name(), join(cx.object, "/spec/cidrs", ",").into(), cx.age()]
        }
        "rbac.authorization.k8s.io/v1/RoleBinding" | "rbac.authorization.k8s.io/v1/ClusterRoleBinding" => {
            binding
        }
        "storage.k8s.io/v1/StorageClass" => storage_class,
        "storage.k8s.io/v1/CSIDriver" => csi_driver,
        "storage.k8s.io/v1/CSINode" => |cx| vec![cx.name(), cx.count("/spec/drivers").into(), cx.age()],
        "storage.k8s.io/v1/VolumeAttributesClass" => |cx| vec![cx.name(), cx.cell("/driverName"), cx.age()],
        "storage.k8s.io/v1/VolumeAttachment" => |cx| {
            let volume = cx.cell("/spec/source/persistentVolumeName");
            let attached = cx.is_true("/status/attached").into();
            vec![cx.name(), cx.cell("/spec/attacher"), volume, cx.cell("/spec/nodeName"), attached, cx.age()]
        },
        "admissionregistration.k8s.io/v1/MutatingWebhookConfiguration"
        | "admissionregistration.k8s.io/v1/ValidatingWebhookConfiguration" => {
            |cx| vec![cx.name(), cx.count("/webhooks").into(), cx.age()]
        }
        "scheduling.k8s.io/v1/PriorityClass" => |cx| {
            let global = cx.is_true("/globalDefault").into();
            vec![cx.name(), cx.number("/value"), global, cx.age(), cx.cell("/preemptionPolicy")]
        },
        "coordination.k8s.io/v1/Lease" => |cx| vec![cx.name(), cx.cell("/spec/holderIdentity"), cx.age()],
        "node.k8s.io/v1/RuntimeClass" => |cx| vec![cx.name(), cx.cell("/handler"), cx.age()],
        "discovery.k8s.io/v1/EndpointSlice" => endpoint_slice,
        "flowcontrol.apiserver.k8s.io/v1/FlowSchema" => flow_schema,
        "flowcontrol.apiserver.k8s.io/v1/PriorityLevelConfiguration" => priority_level,
        _ => return None,
    })
}

fn replicas(cx: Cx<'_>, selector: Value) -> Vec<Value> {
    let [names, images] = cx.containers("/spec/template/spec/containers");
    let (current, ready) = (cx.number("/status/replicas"), cx.number("/status/readyReplicas"));
    vec![cx.name(), cx.number("/spec/replicas"), current, ready, cx.age(), names, images, selector]
}

fn deployment(cx: Cx<'_>) -> Vec<Value> {
    let ready = format!("{}/{}", cx.number("/status/readyReplicas"), cx.number("/spec/replicas"));
    let [names, images] = cx.containers("/spec/template/spec/containers");
    let selector = selector(cx.object.pointer("/spec/selector")).into();
    let (updated, available) = (cx.number("/status/updatedReplicas"), cx.number("/status/availableReplicas"));
    vec![cx.name(), ready.into(), updated, available, cx.age(), names, images, selector]
}

fn daemon_set(cx: Cx<'_>) -> Vec<Value> {
    let [names, images] = cx.containers("/spec/template/spec/containers");
    vec![
        cx.name(),
        cx.number("/status/desiredNumberScheduled"),
        cx.number("/status/currentNumberScheduled"),
        cx.number("/status/numberReady"),
        cx.number("/status/updatedNumberScheduled"),
        cx.number("/status/numberAvailable"),
        cx.labels("/spec/template/spec/nodeSelector"),
        cx.age(),
        names,
        images,
        cx.selector("/spec/selector"),
    ]
}

fn revision(cx: Cx<'_>) -> Vec<Value> {
    let owners = items(cx.object, "/metadata/ownerReferences").iter();
    let owner = owners.into_iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true)));
    let owner = owner.map_or_else(
        || "<none>".to_owned(),
        |owner| {
            let kind = text(owner, "/kind").to_lowercase();
            let group = text(owner, "/apiVersion").split_once('/').map_or("", |(group, _)| group);
            let kind = if group.is_empty() { kind } else { format!("{kind}.{group}") };
            format!("{kind}/{}", text(owner, "/name"))
        },
    );
    vec![cx.name(), owner.into(), cx.number("/revision"), cx.age()]
}

fn job(cx: Cx<'_>) -> Vec<Value> {
    let succeeded = cx.number("/status/succeeded");
    let parallelism = number(cx.object, "/spec/parallelism");
    let completions = match cx.object.pointer("/spec/completions").and_then(Value::as_i64) {
        Some(completions) => format!("{succeeded}/{completions}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let time = |pointer: &str| cx.text(pointer).parse::<Timestamp>().ok();
    let duration = time("/status/startTime")
        .map(|start| since(start, time("/status/completionTime").unwrap_or(cx.now)))
        .unwrap_or_default();
    let [names, images] = cx.containers("/spec/template/spec/containers");
    let selector = cx.selector("/spec/selector");
    vec![
        cx.name(),
        job_status(cx).into(),
        completions.into(),
        duration.into(),
        cx.age(),
        names,
        images,
        selector,
    ]
}

fn job_status(cx: Cx<'_>) -> &'static str {
    let conditions = items(cx.object, "/status/conditions");
    let has = |kind: &str| {
        let found = conditions.iter().find(|condition| text(condition, "/type") == kind);
        found.is_some_and(|condition| text(condition, "/status") == "True")
    };
    match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if !cx.text("/metadata/deletionTimestamp").is_empty() => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn cron_job(cx: Cx<'_>) -> Vec<Value> {
    let suspended = match cx.object.pointer("/spec/suspend").and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = match cx.text("/status/lastScheduleTime") {
        "" => "<none>".to_owned(),
        _ => cx.since("/status/lastScheduleTime"),
    };
    let [names, images] = cx.containers("/spec/jobTemplate/spec/template/spec/containers");
    vec![
        cx.name(),
        cx.cell("/spec/schedule"),
        or_none(cx.text("/spec/timeZone")),
        suspended.into(),
        cx.count("/status/active").into(),
        last.into(),
        cx.age(),
        names,
        images,
        cx.selector("/spec/jobTemplate/spec/selector"),
    ]
}

fn node(cx: Cx<'_>) -> Vec<Value> {
    let conditions = items(cx.object, "/status/conditions");
    let ready = conditions.iter().rfind(|condition| text(condition, "/type") == "Ready");
    let mut status = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if cx.is_true("/spec/unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    let labels = cx.object.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
    let roles: BTreeSet<&str> = labels
        .filter_map(|(name, value)| match name.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if name == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    let roles = roles.into_iter().collect::<Vec<_>>().join(",");
    let address = |kind: &str| {
        let found =
            items(cx.object, "/status/addresses").iter().find(|address| text(address, "/type") == kind);
        or_none(found.map_or("", |address| text(address, "/address")))
    };
    let info = |field: &str| or(cx.text(&format!("/status/nodeInfo/{field}")), "<unknown>");
    vec![
        cx.name(),
        status.into(),
        or_none(&roles),
        cx.age(),
        cx.cell("/status/nodeInfo/kubeletVersion"),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

/// Addresses of a load balancer, sorted.
fn balancer(object: &Value) -> Vec<String> {
    let points = items(object, "/status/loadBalancer/ingress").iter();
    let addresses: BTreeSet<&str> = points
        .map(|point| match text(point, "/ip") {
            "" => text(point, "/hostname"),
            ip => ip,
        })
        .filter(|address| !address.is_empty())
        .collect();
    addresses.into_iter().map(str::to_owned).collect()
}

fn service(cx: Cx<'_>) -> Vec<Value> {
    let kind = cx.text("/spec/type");
    let given = items(cx.object, "/spec/externalIPs").iter().map(plain);
    let external = match kind {
        "ClusterIP" | "NodePort" => or_none(&given.collect::<Vec<_>>().join(",")),
        "LoadBalancer" => {
            or(&balancer(cx.object).into_iter().chain(given).collect::<Vec<_>>().join(","), "<pending>")
        }
        "ExternalName" => cx.cell("/spec/externalName"),
        _ => "<unknown>".into(),
    };
    let port = |port: &Value| {
        let protocol = text(port, "/protocol");
        match number(port, "/nodePort") {
            0 => format!("{}/{protocol}", number(port, "/port")),
            node => format!("{}:{node}/{protocol}", number(port, "/port")),
        }
    };
    let ports = items(cx.object, "/spec/ports").iter().map(port).collect::<Vec<_>>().join(",");
    vec![
        cx.name(),
        kind.into(),
        or_none(cx.text("/spec/clusterIPs/0")),
        external,
        or_none(&ports),
        cx.age(),
        cx.labels("/spec/selector"),
    ]
}

fn endpoints(object: &Value) -> String {
    let mut list = Vec::new();
    for subset in items(object, "/subsets") {
        let addresses = items(subset, "/addresses").iter().map(|address| text(address, "/ip"));
        let ports = items(subset, "/ports");
        if ports.is_empty() {
            list.extend(addresses.clone().map(str::to_owned));
        }
        for port in ports {
            let host = |ip: &str| if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            list.extend(addresses.clone().map(|ip| format!("{}:{}", host(ip), number(port, "/port"))));
        }
    }
    let empty = if items(object, "/subsets").is_empty() { "<none>" } else { "" };
    first_three(&list, empty)
}

fn endpoint_slice(cx: Cx<'_>) -> Vec<Value> {
    let port = |port: &Value| match port.get("port").and_then(Value::as_i64) {
        Some(number) => number.to_string(),
        None => port.get("name").map_or_else(|| "*".to_owned(), plain),
    };
    let ports: Vec<String> = items(cx.object, "/ports").iter().map(port).collect();
    let endpoints = items(cx.object, "/endpoints").iter();
    let addresses: Vec<String> = endpoints.flat_map(|one| items(one, "/addresses")).map(plain).collect();
    let (ports, addresses) = (first_three(&ports, "<unset>"), first_three(&addresses, "<unset>"));
    vec![cx.name(), cx.cell("/addressType"), ports.into(), addresses.into(), cx.age()]
}

fn ingress(cx: Cx<'_>) -> Vec<Value> {
    let rules = items(cx.object, "/spec/rules");
    let hosts = rules.iter().take(3).map(|rule| text(rule, "/host")).filter(|host| !host.is_empty());
    let hosts = hosts.collect::<Vec<_>>().join(",");
    let hosts = match rules.len() {
        _ if hosts.is_empty() => "*".to_owned(),
        0..=3 => hosts,
        all => format!("{hosts} + {} more...", all - 3),
    };
    let ports = if cx.count("/spec/tls") == 0 { "80" } else { "80, 443" };
    let class = or_none(cx.text("/spec/ingressClassName"));
    vec![cx.name(), class, hosts.into(), balancer(cx.object).join(",").into(), ports.into(), cx.age()]
}

fn ingress_class(cx: Cx<'_>) -> Vec<Value> {
    let parameters = cx.object.pointer("/spec/parameters").map_or_else(
        || "<none>".to_owned(),
        |parameters| {
            let group = match text(parameters, "/apiGroup") {
                "" => String::new(),
                group => format!(".{group}"),
            };
            format!("{}{group}/{}", text(parameters, "/kind"), text(parameters, "/name"))
        },
    );
    vec![cx.name(), cx.cell("/spec/controller"), parameters.into(), cx.age()]
}

fn ip_address(cx: Cx<'_>) -> Vec<Value> {
    let parts =
        ["group", "resource", "namespace", "name"].map(|part| cx.text(&format!("/spec/parentRef/{part}")));
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    vec![cx.name(), or_none(&parts.join("/")), cx.age()]
}

/// Where the two event APIs keep the same thing.
struct EventFields {
    first: &'static str,
    last: &'static str,
    count: &'static str,
    object: &'static str,
    source: &'static str,
    controller: &'static str,
    message: &'static str,
}

const CORE_EVENT: EventFields = EventFields {
    first: "/firstTimestamp",
    last: "/lastTimestamp",
    count: "/count",
    object: "/involvedObject",
    source: "/source",
    controller: "/reportingComponent",
    message: "/message",
};

const NEW_EVENT: EventFields = EventFields {
    first: "/deprecatedFirstTimestamp",
    last: "/deprecatedLastTimestamp",
    count: "/deprecatedCount",
    object: "/regarding",
    source: "/deprecatedSource",
    controller: "/reportingController",
    message: "/note",
};

fn event(cx: Cx<'_>, fields: &EventFields) -> Vec<Value> {
    let first = match cx.text(fields.first) {
        "" => cx.since("/eventTime"),
        _ => cx.since(fields.first),
    };
    let series = cx.object.get("series").filter(|series| series.is_object());
    let last = match cx.text(fields.last) {
        _ if series.is_some() => cx.since("/series/lastObservedTime"),
        "" => first.clone(),
        _ => cx.since(fields.last),
    };
    let count =
        series.map_or_else(|| number(cx.object, fields.count).max(1), |series| number(series, "/count"));
    let object = cx.object.pointer(fields.object).unwrap_or(&Value::Null);
    let kind = text(object, "/kind").to_lowercase();
    let target = match text(object, "/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source = cx.object.pointer(fields.source).unwrap_or(&Value::Null);
    let part = |old: &'static str, new: &'static str| match text(source, old) {
        "" => cx.text(new).to_owned(),
        part => part.to_owned(),
    };
    let (component, host) = (part("/component", fields.controller), part("/host", "/reportingInstance"));
    let source = if host.is_empty() { component } else { format!("{component}, {host}") };
    vec![
        last.into(),
        cx.cell("/type"),
        cx.cell("/reason"),
        target.into(),
        text(object, "/fieldPath").into(),
        source.into(),
        cx.text(fields.message).trim().into(),
        first.into(),
        count.into(),
        cx.name(),
    ]
}

/// Access modes in their short forms, in a fixed order.
fn access_modes(object: &Value, pointer: &str) -> String {
    let modes = items(object, pointer);
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let present = short.iter().filter(|(mode, _)| modes.iter().any(|given| given == mode));
    present.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// The storage class of a volume or claim; an old annotation wins.
fn class_of(cx: Cx<'_>) -> Value {
    match cx.text("/metadata/annotations/volume.beta.kubernetes.io~1storage-class") {
        "" => cx.cell("/spec/storageClassName"),
        class => class.into(),
    }
}

fn phase(cx: Cx<'_>) -> Value {
    if cx.text("/metadata/deletionTimestamp").is_empty() {
        cx.cell("/status/phase")
    } else {
        "Terminating".into()
    }
}

fn unset(cx: Cx<'_>, pointer: &str) -> Value {
    or(cx.text(pointer), "<unset>")
}

fn volume(cx: Cx<'_>) -> Vec<Value> {
    let capacity = cx.object.pointer("/spec/capacity/storage").map_or_else(|| "0".to_owned(), plain);
    let claim = cx.object.pointer("/spec/claimRef");
    let claim = claim.map(|claim| format!("{}/{}", text(claim, "/namespace"), text(claim, "/name")));
    vec![
        cx.name(),
        capacity.into(),
        access_modes(cx.object, "/spec/accessModes").into(),
        cx.cell("/spec/persistentVolumeReclaimPolicy"),
        phase(cx),
        claim.unwrap_or_default().into(),
        class_of(cx),
        unset(cx, "/spec/volumeAttributesClassName"),
        cx.cell("/status/reason"),
        cx.age(),
        unset(cx, "/spec/volumeMode"),
    ]
}

fn claim(cx: Cx<'_>) -> Vec<Value> {
    let volume = cx.text("/spec/volumeName");
    let (capacity, modes) = if volume.is_empty() {
        (String::new(), String::new())
    } else {
        let capacity = cx.object.pointer("/status/capacity/storage").map_or_else(|| "0".to_owned(), plain);
        (capacity, access_modes(cx.object, "/status/accessModes"))
    };
    vec![
        cx.name(),
        phase(cx),
        volume.into(),
        capacity.into(),
        modes.into(),
        class_of(cx),
        unset(cx, "/spec/volumeAttributesClassName"),
        cx.age(),
        unset(cx, "/spec/volumeMode"),
    ]
}

fn quota(cx: Cx<'_>) -> Vec<Value> {
    let hard = cx.object.pointer("/status/hard").and_then(Value::as_object);
    let used = |name: &str| cx.object.pointer("/status/used").and_then(|used| used.get(name));
    let shown = |limits: bool| {
        let rows = hard.into_iter().flatten().filter(|(name, _)| {
            matches!(name.as_str(), "limits.cpu" | "limits.memory" | "limits.ephemeral-storage") == limits
        });
        let rows = rows.map(|(name, hard)| {
            let used = used(name).map_or_else(|| "0".to_owned(), plain);
            format!("{name}: {used}/{}", plain(hard))
        });
        rows.collect::<Vec<_>>().join(", ")
    };
    vec![cx.name(), shown(false).into(), shown(true).into(), cx.age()]
}

fn autoscaler(cx: Cx<'_>, metrics: &[String]) -> Vec<Value> {
    let target = format!("{}/{}", cx.text("/spec/scaleTargetRef/kind"), cx.text("/spec/scaleTargetRef/name"));
    let shown = metrics.iter().take(2).cloned().collect::<Vec<_>>().join(", ");
    let metrics = match metrics.len() {
        0 => "<none>".to_owned(),
        1 | 2 => shown,
        all => format!("{shown} + {} more...", all - 2),
    };
    let least = cx.object.pointer("/spec/minReplicas").map_or_else(|| "<unset>".to_owned(), plain);
    let (most, current) = (cx.number("/spec/maxReplicas"), cx.number("/status/currentReplicas"));
    vec![cx.name(), target.into(), metrics.into(), least.into(), most, current, cx.age()]
}

/// The only metric that the first version of autoscalers has.
fn cpu_metric(object: &Value) -> Vec<String> {
    let percent = |pointer: &str| object.pointer(pointer).map(|value| format!("{}%", plain(value)));
    let current =
        percent("/status/currentCPUUtilizationPercentage").unwrap_or_else(|| "<unknown>".to_owned());
    let target = percent("/spec/targetCPUUtilizationPercentage");
    target.map(|target| format!("cpu: {current}/{target}")).into_iter().collect()
}

fn metrics(object: &Value) -> Vec<String> {
    let statuses = items(object, "/status/currentMetrics");
    let metric = |(at, spec): (usize, &Value)| metric(spec, statuses.get(at).unwrap_or(&Value::Null));
    items(object, "/spec/metrics").iter().enumerate().map(metric).collect()
}

fn metric(spec: &Value, status: &Value) -> String {
    let (field, by_resource) = match text(spec, "/type") {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".to_owned(),
    };
    let nothing = &Value::Null;
    let (spec, status) = (spec.get(field).unwrap_or(nothing), status.get(field).unwrap_or(nothing));
    let current = |name: &str| status.pointer(&format!("/current/{name}")).map(plain);
    let target = |name: &str| spec.pointer(&format!("/target/{name}")).map(plain);
    let known = |value: Option<String>| value.unwrap_or_else(|| "<unknown>".to_owned());
    let percent = |value: Option<String>| value.map(|value| format!("{value}%"));
    let average = target("averageValue");
    let shown = match (average, field) {
        (Some(average), "external" | "object") => {
            format!("{}/{average} (avg)", known(current("averageValue")))
        }
        (Some(average), _) => format!("{}/{average}", known(current("averageValue"))),
        (None, _) if by_resource => {
            let target = percent(target("averageUtilization")).unwrap_or_else(|| "<auto>".to_owned());
            format!("{}/{target}", known(percent(current("averageUtilization"))))
        }
        (None, _) => {
            format!("{}/{}", known(current("value")), target("value").unwrap_or_else(|| "0".to_owned()))
        }
    };
    if by_resource { format!("{}: {shown}", text(spec, "/name")) } else { shown }
}

fn binding(cx: Cx<'_>) -> Vec<Value> {
    let role = format!("{}/{}", cx.text("/roleRef/kind"), cx.text("/roleRef/name"));
    let subjects = |kind: &str| {
        let subjects = items(cx.object, "/subjects").iter().filter(|subject| text(subject, "/kind") == kind);
        let named = subjects.map(|subject| match text(subject, "/namespace") {
            namespace if kind == "ServiceAccount" && !namespace.is_empty() => {
                format!("{namespace}/{}", text(subject, "/name"))
            }
            _ => text(subject, "/name").to_owned(),
        });
        Value::from(named.collect::<Vec<_>>().join(", "))
    };
    vec![cx.name(), role.into(), cx.age(), subjects("User"), subjects("Group"), subjects("ServiceAccount")]
}

fn storage_class(cx: Cx<'_>) -> Vec<Value> {
    let default = ["storageclass.kubernetes.io", "storageclass.beta.kubernetes.io"]
        .iter()
        .any(|domain| cx.text(&format!("/metadata/annotations/{domain}~1is-default-class")) == "true");
    let name = format!("{}{}", cx.text("/metadata/name"), if default { " (default)" } else { "" });
    vec![
        name.into(),
        cx.cell("/provisioner"),
        or(cx.text("/reclaimPolicy"), "Delete"),
        or(cx.text("/volumeBindingMode"), "Immediate"),
        cx.is_true("/allowVolumeExpansion").into(),
        cx.age(),
    ]
}

fn csi_driver(cx: Cx<'_>) -> Vec<Value> {
    let attach = cx.object.pointer("/spec/attachRequired").and_then(Value::as_bool).unwrap_or(true);
    let audiences = cx.object.pointer("/spec/tokenRequests").map_or_else(
        || "<unset>".to_owned(),
        |_| {
            items(cx.object, "/spec/tokenRequests")
                .iter()
                .map(|one| text(one, "/audience"))
                .collect::<Vec<_>>()
                .join(",")
        },
    );
    vec![
        cx.name(),
        attach.into(),
        cx.is_true("/spec/podInfoOnMount").into(),
        cx.is_true("/spec/storageCapacity").into(),
        audiences.into(),
        cx.is_true("/spec/requiresRepublish").into(),
        or_none(&join(cx.object, "/spec/volumeLifecycleModes", ",")),
        cx.age(),
    ]
}

fn flow_schema(cx: Cx<'_>) -> Vec<Value> {
    let conditions = items(cx.object, "/status/conditions");
    let dangling = conditions.iter().find(|condition| text(condition, "/type") == "Dangling");
    vec![
        cx.name(),
        cx.cell("/spec/priorityLevelConfiguration/name"),
        cx.number("/spec/matchingPrecedence"),
        or_none(cx.text("/spec/distinguisherMethod/type")),
        cx.age(),
        dangling.map_or("?", |condition| text(condition, "/status")).into(),
    ]
}

fn priority_level(cx: Cx<'_>) -> Vec<Value> {
    let limited = cx.object.pointer("/spec/limited").and_then(Value::as_object);
    let queuing = limited.and_then(|limited| limited.get("limitResponse")?.get("queuing")?.as_object());
    let cell = |fields: Option<&Map<String, Value>>, name: &str| {
        fields.map_or_else(|| "<none>".into(), |fields| fields.get(name).cloned().unwrap_or_else(|| 0.into()))
    };
    vec![
        cx.name(),
        cx.cell("/spec/type"),
        cell(limited, "nominalConcurrencyShares"),
        cell(queuing, "queues"),
        cell(queuing, "handSize"),
        cell(queuing, "queueLengthLimit"),
        cx.age(),
    ]
}
