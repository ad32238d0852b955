//! What is checked when a request is made, and what is written down then of its pod.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod};
use kruise_api::keys;
use kruise_webhook::review::{AdmissionRequest, Operation, Verdict};
use kube::Api;
use serde_json::{Map, Value};

/// The least that `activeDeadlineSeconds` may be.
const LEAST_DEADLINE: i64 = 3;

/// What the webhook needs besides the request.
pub struct Context {
    /// The API server.
    pub client: kube::Client,
    /// Gate `KruiseDaemon`.
    pub daemon: bool,
}

/// Why a request is refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// HTTP status code.
    pub code: u16,
    /// Shown to the user.
    pub message: String,
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal { code: 400, message: message.into() }
}

/// Answers one admission request.
pub async fn handle(request: &AdmissionRequest, context: &Context) -> Verdict {
    if !matches!(request.resource.version.as_str(), "v1alpha1" | "v1beta1") {
        return Verdict::unsupported_version(&request.resource.version);
    }
    if request.sub_resource.as_deref().is_some_and(|name| !name.is_empty()) {
        return Verdict::allow();
    }
    let Some(object) = &request.object else { return Verdict::allow() };
    let answer = match (request.operation, &request.old_object) {
        (Operation::Create, _) => {
            created(object, request.namespace.as_deref().unwrap_or_default(), context).await
        }
        (Operation::Update, Some(old)) => updated(object, old, &request.resource.version).map(|()| None),
        _ => Ok(None),
    };
    match answer {
        Ok(Some(patched)) => Verdict::patched(patched),
        Ok(None) => Verdict::allow(),
        Err(Refusal { code, message }) => Verdict::error(code, message),
    }
}

async fn created(object: &Value, namespace: &str, context: &Context) -> Result<Option<Value>, Refusal> {
    if !context.daemon {
        return Err(Refusal { code: 403, message: "feature-gate KruiseDaemon is not enabled".to_owned() });
    }
    let mut object = object.clone();
    let name = prepare(&mut object)?;
    let unavailable = |message: String| Refusal { code: 500, message };
    let pods = Api::<Pod>::namespaced(context.client.clone(), namespace);
    let pod = pods.get_opt(&name).await;
    let pod = pod.map_err(|error| unavailable(format!("failed to find Pod {name}: {error}")))?;
    let pod = pod.ok_or_else(|| bad(format!("no found Pod named {name}")))?;
    let node = node_of(&pod)?;
    let found = Api::<Node>::all(context.client.clone()).get_metadata_opt(node).await;
    let found = found.map_err(|error| unavailable(format!("failed to get Node {node}: {error}")))?;
    let found = found.ok_or_else(|| bad(format!("failed to get Node {node}: not found")))?;
    let kind = found.metadata.labels.and_then(|mut labels| labels.remove(keys::NODE_TYPE));
    let is_virtual = kind.filter(|kind| kind == keys::VIRTUAL_KUBELET);
    inject(&mut object, &pod, node, is_virtual.as_deref())?;
    Ok(Some(object))
}

/// Checks and defaults that need no pod; returns the pod's name.
pub fn prepare(object: &mut Value) -> Result<String, Refusal> {
    let root = object.as_object_mut().ok_or_else(|| bad("the request is no object"))?;
    let spec = child(root, "spec").ok_or_else(|| bad("the request has no spec"))?;
    let name = spec.get("podName").and_then(Value::as_str).unwrap_or_default().to_owned();
    if name.is_empty() {
        return Err(bad("podName can not be empty"));
    }
    if spec.get("containers").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        return Err(bad("containers list can not be null"));
    }
    if spec
        .get("activeDeadlineSeconds")
        .and_then(Value::as_i64)
        .is_some_and(|seconds| seconds < LEAST_DEADLINE)
    {
        return Err(bad(format!("activeDeadlineSeconds can not be less than {LEAST_DEADLINE}s")));
    }
    let strategy = child(spec, "strategy").ok_or_else(|| bad("strategy is no object"))?;
    for field in ["terminationGracePeriodSeconds", "unreadyGracePeriodSeconds"] {
        if strategy.get(field).and_then(Value::as_i64).is_some_and(|seconds| seconds < 0) {
            return Err(bad(format!("{field} must be non-negative integer")));
        }
    }
    match strategy.get("failurePolicy").and_then(Value::as_str).unwrap_or_default() {
        "" => {
            strategy.insert("failurePolicy".to_owned(), "Fail".into());
        }
        "Fail" | "Ignore" => {}
        other => return Err(bad(format!("unknown failurePolicy {other}"))),
    }
    set_label(root, keys::CRR_ACTIVE, "true");
    Ok(name)
}

/// The node of a pod whose containers may be restarted.
pub fn node_of(pod: &Pod) -> Result<&str, Refusal> {
    let status = pod.status.as_ref();
    let mut conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let phase = status.and_then(|status| status.phase.as_deref());
    let inactive = matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some();
    if inactive && !conditions.any(|condition| condition.type_ == keys::CONDITION_SIDECAR_TERMINATED) {
        return Err(bad("not allowed to recreate containers in an inactive Pod"));
    }
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty());
    node.ok_or_else(|| bad("not allowed to recreate containers in a pending Pod"))
}

/// Writes down what the pod and its containers are now.
pub fn inject(object: &mut Value, pod: &Pod, node: &str, virtual_kind: Option<&str>) -> Result<(), Refusal> {
    let Some(root) = object.as_object_mut() else { return Ok(()) };
    set_label(root, keys::CRR_NODE_NAME, node);
    set_label(root, keys::CRR_POD_UID, pod.metadata.uid.as_deref().unwrap_or_default());
    if let Some(kind) = virtual_kind {
        set_label(root, keys::NODE_TYPE, kind);
    }
    let Some(spec) = child(root, "spec") else { return Ok(()) };
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    if let (Some(strategy), Some(grace)) = (child(spec, "strategy"), grace)
        && strategy.get("terminationGracePeriodSeconds").is_none_or(Value::is_null)
    {
        strategy.insert("terminationGracePeriodSeconds".to_owned(), grace.into());
    }
    let mut seen = BTreeSet::new();
    for container in spec.get_mut("containers").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(container) = container.as_object_mut() else { continue };
        let name = container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !seen.insert(name.clone()) {
            return Err(bad(format!("can not recreate {name} multi times")));
        }
        inject_container(container, &name, pod)?;
    }
    Ok(())
}

fn inject_container(container: &mut Map<String, Value>, name: &str, pod: &Pod) -> Result<(), Refusal> {
    let set = |field: &str| container.get(field).is_some_and(|value| !value.is_null());
    if ["preStop", "ports", "statusContext"].into_iter().any(set) {
        return Err(bad("preStop, ports, statusContext in container are ready-only fields"));
    }
    let spec = pod.spec.as_ref();
    let inits = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
    let all = spec.map(|spec| &spec.containers).into_iter().flatten().chain(inits);
    let found = all.into_iter().find(|found| found.name == name);
    let found = found.ok_or_else(|| bad(format!("container {name} not found in Pod")))?;
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let status: Option<&ContainerStatus> = statuses.into_iter().flatten().find(|status| status.name == name);
    let status = status.ok_or_else(|| bad(format!("not found {name} containerStatus in Pod Status")))?;
    let id = status.container_id.as_deref().unwrap_or_default();
    if id.is_empty() {
        return Err(bad(format!(
            "no containerID in {name} containerStatus, maybe the container has not been initialized"
        )));
    }
    let mut context = Map::new();
    context.insert("containerID".to_owned(), id.into());
    context.insert("restartCount".to_owned(), status.restart_count.into());
    container.insert("statusContext".to_owned(), Value::Object(context));
    let hook = found.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    let mut pre_stop = Map::new();
    if let Some(hook) = hook {
        let fields = [
            ("exec", serde_json::to_value(&hook.exec)),
            ("httpGet", serde_json::to_value(&hook.http_get)),
            ("tcpSocket", serde_json::to_value(&hook.tcp_socket)),
        ];
        pre_stop.extend(fields.into_iter().filter_map(|(field, value)| {
            value.ok().filter(|value| !value.is_null()).map(|value| (field.to_owned(), value))
        }));
    }
    if pre_stop.contains_key("httpGet")
        && let Ok(ports) = serde_json::to_value(&found.ports)
        && !ports.is_null()
    {
        container.insert("ports".to_owned(), ports);
    }
    if !pre_stop.is_empty() {
        container.insert("preStop".to_owned(), Value::Object(pre_stop));
    }
    Ok(())
}

/// What an update changes that it may not.
pub fn updated(object: &Value, old: &Value, version: &str) -> Result<(), Refusal> {
    let forbidden = |message: String| Err(Refusal { code: 403, message });
    if object.get("spec") != old.get("spec") {
        return forbidden("spec of ContainerRecreateRequest is immutable".to_owned());
    }
    let meta = |of: &Value, map: &str, key: &str| {
        let value = of.get("metadata").and_then(|meta| meta.get(map)).and_then(|map| map.get(key));
        value.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    for key in [keys::CRR_POD_UID, keys::CRR_NODE_NAME] {
        if meta(object, "labels", key) != meta(old, "labels", key) {
            return forbidden(format!("not allowed to update immutable label {key}"));
        }
    }
    let key = keys::CRR_UNREADY_ACQUIRED;
    let was = meta(old, "annotations", key);
    if version == "v1alpha1" && !was.is_empty() && meta(object, "annotations", key) != was {
        return forbidden(format!("not allowed to update immutable annotation {key}"));
    }
    Ok(())
}

fn set_label(root: &mut Map<String, Value>, key: &str, value: &str) {
    let labels = child(root, "metadata").and_then(|metadata| child(metadata, "labels"));
    if let Some(labels) = labels {
        labels.insert(key.to_owned(), value.into());
    }
}

/// The object at `key`, made if there is none.
fn child<'a>(holder: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    if holder.get(key).is_none_or(Value::is_null) {
        holder.insert(key.to_owned(), Value::Object(Map::new()));
    }
    holder.get_mut(key).and_then(Value::as_object_mut)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(spec: Value) -> Value {
        let mut full = json!({"podName": "web-0", "containers": [{"name": "main"}]});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        json!({"metadata": {"name": "r"}, "spec": full})
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web-0", "uid": "p"},
            "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 17,
                "initContainers": [{"name": "init"}],
                "containers": [
                    {"name": "main", "ports": [{"name": "web", "containerPort": 80}],
                     "lifecycle": {"preStop": {"httpGet": {"port": "web"}}}},
                    {"name": "side", "ports": [{"containerPort": 1}], "lifecycle": {"preStop": {"sleep": {"seconds": 4}}}},
                    {"name": "new"}]},
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "main", "containerID": "x://1", "restartCount": 2, "ready": true, "image": "", "imageID": ""},
                {"name": "side", "containerID": "x://2", "restartCount": 0, "ready": true, "image": "", "imageID": ""},
                {"name": "new", "restartCount": 0, "ready": false, "image": "", "imageID": ""}]},
        }))
        .unwrap()
    }

    fn refused(spec: Value) -> Option<String> {
        let mut object = request(spec);
        let result = prepare(&mut object).and_then(|_| inject(&mut object, &pod(), "n", None));
        result.err().map(|Refusal { code, message }| {
            assert_eq!(code, 400);
            message
        })
    }

    #[test]
    fn what_the_pod_and_its_containers_are_is_written_down() {
        let mut object = request(json!({"containers": [{"name": "main"}, {"name": "side"}]}));
        assert_eq!(prepare(&mut object).unwrap(), "web-0");
        inject(&mut object, &pod(), "n", Some("virtual-kubelet")).unwrap();
        assert_eq!(
            object["metadata"]["labels"],
            json!({"crr.apps.kruise.io/active": "true", "crr.apps.kruise.io/node-name": "n",
                "crr.apps.kruise.io/pod-uid": "p", "type": "virtual-kubelet"})
        );
        assert_eq!(
            object["spec"]["strategy"],
            json!({"failurePolicy": "Fail", "terminationGracePeriodSeconds": 17})
        );
        assert_eq!(
            object["spec"]["containers"],
            json!([
                {"name": "main", "statusContext": {"containerID": "x://1", "restartCount": 2},
                 "preStop": {"httpGet": {"port": "web"}}, "ports": [{"name": "web", "containerPort": 80}]},
                {"name": "side", "statusContext": {"containerID": "x://2", "restartCount": 0}}])
        );
    }

    #[test]
    fn every_rule_is_told_by_its_message() {
        let read_only = "preStop, ports, statusContext in container are ready-only fields";
        let table = [
            (json!({"podName": ""}), "podName can not be empty"),
            (json!({"containers": []}), "containers list can not be null"),
            (json!({"activeDeadlineSeconds": 2}), "activeDeadlineSeconds can not be less than 3s"),
            (
                json!({"strategy": {"terminationGracePeriodSeconds": -1}}),
                "terminationGracePeriodSeconds must be non-negative integer",
            ),
            (
                json!({"strategy": {"unreadyGracePeriodSeconds": -1}}),
                "unreadyGracePeriodSeconds must be non-negative integer",
            ),
            (json!({"strategy": {"failurePolicy": "Hope"}}), "unknown failurePolicy Hope"),
            (
                json!({"containers": [{"name": "main"}, {"name": "main"}]}),
                "can not recreate main multi times",
            ),
            (json!({"containers": [{"name": "main", "preStop": {}}]}), read_only),
            (json!({"containers": [{"name": "main", "ports": []}]}), read_only),
            (json!({"containers": [{"name": "main", "statusContext": {}}]}), read_only),
            (json!({"containers": [{"name": "no"}]}), "container no not found in Pod"),
            (json!({"containers": [{"name": "init"}]}), "not found init containerStatus in Pod Status"),
        ];
        for (spec, message) in table {
            assert_eq!(refused(spec).as_deref(), Some(message));
        }
        assert!(
            refused(json!({"containers": [{"name": "new"}]}))
                .unwrap()
                .starts_with("no containerID in new containerStatus")
        );
        assert_eq!(
            refused(json!({"activeDeadlineSeconds": 3, "strategy": {"failurePolicy": "Ignore"}})),
            None
        );
    }

    #[test]
    fn only_active_pods_on_a_node_are_touched_unless_their_sidecars_are_to_end() {
        let mut ended = pod();
        ended.status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
        let inactive = Err(bad("not allowed to recreate containers in an inactive Pod"));
        assert_eq!(node_of(&ended), inactive);
        ended.status.as_mut().unwrap().conditions =
            serde_json::from_value(json!([{"type": "SidecarTerminated", "status": "True"}])).unwrap();
        assert_eq!(node_of(&ended), Ok("n"));
        let mut pending = pod();
        pending.spec.as_mut().unwrap().node_name = None;
        assert_eq!(node_of(&pending), Err(bad("not allowed to recreate containers in a pending Pod")));
    }

    #[test]
    fn nothing_of_a_request_can_be_changed_but_it_can_be_put_away() {
        let object = |labels: Value, note: &str| {
            json!({"metadata": {"labels": labels, "annotations":
            {"crr.apps.kruise.io/unready-acquired": note}}, "spec": {"podName": "a"}})
        };
        let old =
            object(json!({"crr.apps.kruise.io/pod-uid": "p", "crr.apps.kruise.io/active": "true"}), "now");
        let put_away = object(json!({"crr.apps.kruise.io/pod-uid": "p"}), "now");
        assert_eq!(updated(&put_away, &old, "v1alpha1"), Ok(()));
        let refusal = |object: &Value, version: &str| updated(object, &old, version).unwrap_err();
        let mut other = put_away.clone();
        other["spec"]["podName"] = json!("b");
        let expected =
            Refusal { code: 403, message: "spec of ContainerRecreateRequest is immutable".to_owned() };
        assert_eq!(refusal(&other, "v1beta1"), expected);
        let message = refusal(&object(json!({}), "now"), "v1beta1").message;
        assert_eq!(message, "not allowed to update immutable label crr.apps.kruise.io/pod-uid");
        let later = object(json!({"crr.apps.kruise.io/pod-uid": "p"}), "later");
        assert!(
            refusal(&later, "v1alpha1").message.starts_with("not allowed to update immutable annotation")
        );
        assert_eq!(updated(&later, &old, "v1beta1"), Ok(()));
    }
}
