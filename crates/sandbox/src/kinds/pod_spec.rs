//! Validation of pods' specs, in pods and in templates.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::check::{Checks, at, flag, int, list, pairs, text};
use super::quantity::Quantity;
use super::{meta, names, volumes};

/// Checks a `PodTemplateSpec` at `path`.
pub(super) fn template(template: &Value, path: &str, checks: &mut Checks) {
    let empty = Value::Null;
    let meta = template.get("metadata").unwrap_or(&empty);
    meta::labels_and_annotations(meta, path, checks);
    let spec = template.get("spec").unwrap_or(&empty);
    pod_spec(spec, &format!("{path}.spec"), checks);
    if !list(spec, "ephemeralContainers").is_empty() {
        checks.forbidden(
            format!("{path}.spec.ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}

/// Checks what only pods must obey, after [`pod_spec`].
pub(super) fn only_for_pods(spec: &Value, path: &str, checks: &mut Checks) {
    for field in ["containers", "initContainers"] {
        for (index, container) in list(spec, field).iter().enumerate() {
            let image = text(container, "image");
            if image.trim() != image {
                let path = format!("{path}.{field}[{index}].image");
                checks.invalid(path, &Value::from(image), "must not have leading or trailing whitespace");
            }
        }
    }
}

/// Checks a `PodSpec` at `path`.
pub(super) fn pod_spec(spec: &Value, path: &str, checks: &mut Checks) {
    if int(spec, "terminationGracePeriodSeconds").is_none() {
        checks.required(format!("{path}.terminationGracePeriodSeconds"), "");
    }
    let volumes = volumes::check(spec, &format!("{path}.volumes"), checks);
    let context = Context { spec, volumes: &volumes, grace: int(spec, "terminationGracePeriodSeconds") };
    context.containers(&format!("{path}.containers"), checks);
    context.init_containers(&format!("{path}.initContainers"), checks);
    context.ephemeral_containers(&format!("{path}.ephemeralContainers"), checks);
    one_of(spec, "restartPolicy", path, &["Always", "OnFailure", "Never"], checks);
    let dns = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(spec, "dnsPolicy", path, &dns, checks);
    if text(spec, "dnsPolicy") == "None" && at(spec, &["dnsConfig"]).is_none() {
        checks.required(format!("{path}.dnsConfig"), "must provide `dnsConfig` when `dnsPolicy` is None");
    }
    meta::labels(spec, "nodeSelector", &format!("{path}.nodeSelector"), checks);
    gates(spec, path, checks);
    spread_constraints(spec, path, checks);
    named(spec, path, checks);
    if let Some(seconds) =
        int(spec, "activeDeadlineSeconds").filter(|s| !(1..=i64::from(i32::MAX)).contains(s))
    {
        let detail = names::range(1, i32::MAX.into());
        checks.invalid(format!("{path}.activeDeadlineSeconds"), &Value::from(seconds), &detail);
    }
    tolerations(list(spec, "tolerations"), &format!("{path}.tolerations"), checks);
    let preemption = text(spec, "preemptionPolicy");
    if !preemption.is_empty() && !["Never", "PreemptLowerPriority"].contains(&preemption) {
        checks.not_supported(
            format!("{path}.preemptionPolicy"),
            preemption,
            &["PreemptLowerPriority", "Never"],
        );
    }
}

fn named(spec: &Value, path: &str, checks: &mut Checks) {
    for (field, check) in [
        ("serviceAccountName", names::dns_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", names::dns_subdomain),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
        ("priorityClassName", names::dns_subdomain),
        ("runtimeClassName", names::dns_subdomain),
    ] {
        let value = text(spec, field);
        if !value.is_empty() {
            checks.invalid_each(&format!("{path}.{field}"), value, check(value));
        }
    }
}

fn gates(spec: &Value, path: &str, checks: &mut Checks) {
    for (index, gate) in list(spec, "readinessGates").iter().enumerate() {
        let condition = text(gate, "conditionType");
        let path = format!("{path}.readinessGates[{index}].conditionType");
        checks.invalid_each(&path, condition, names::qualified_name(condition));
    }
    let mut seen = HashSet::new();
    for (index, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let (name, path) = (text(gate, "name"), format!("{path}.schedulingGates[{index}]"));
        checks.invalid_each(&path, name, names::qualified_name(name));
        if !seen.insert(name) {
            checks.duplicate(path, name);
        }
    }
}

fn spread_constraints(spec: &Value, path: &str, checks: &mut Checks) {
    for (index, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let path = format!("{path}.topologySpreadConstraints[{index}]");
        if let Some(skew) = int(constraint, "maxSkew").filter(|skew| *skew <= 0) {
            checks.invalid(format!("{path}.maxSkew"), &Value::from(skew), "must be greater than zero");
        }
        if text(constraint, "topologyKey").is_empty() {
            checks.required(format!("{path}.topologyKey"), "can not be empty");
        }
        let action = text(constraint, "whenUnsatisfiable");
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&action) {
            let path = format!("{path}.whenUnsatisfiable");
            checks.not_supported(path, action, &["DoNotSchedule", "ScheduleAnyway"]);
        }
    }
}

/// Checks tolerations at `path`.
pub(super) fn tolerations(tolerations: &[Value], path: &str, checks: &mut Checks) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let (key, operator, value) =
            (text(toleration, "key"), text(toleration, "operator"), text(toleration, "value"));
        let effect = text(toleration, "effect");
        if key.is_empty() && operator != "Exists" {
            checks.invalid(
                format!("{path}.operator"),
                &Value::from(operator),
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        } else if !key.is_empty() {
            checks.invalid_each(&format!("{path}.key"), key, names::qualified_name(key));
        }
        if at(toleration, &["tolerationSeconds"]).is_some() && effect != "NoExecute" {
            checks.invalid(
                format!("{path}.effect"),
                &Value::from(effect),
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        match operator {
            "Equal" | "" => {
                let errors = names::label_value(value);
                if !errors.is_empty() {
                    checks.invalid(format!("{path}.operator"), &Value::from(value), &errors.join(";"));
                }
            }
            "Exists" if !value.is_empty() => checks.invalid(
                format!("{path}.operator"),
                &Value::from(value),
                "value must be empty when `operator` is 'Exists'",
            ),
            "Exists" => {}
            other => checks.not_supported(format!("{path}.operator"), other, &["Equal", "Exists"]),
        }
        if !["", "NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            let allowed = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            checks.not_supported(format!("{path}.effect"), effect, &allowed);
        }
    }
}

/// A required text that must be one of a few; the complaint lists them in the order of the alphabet.
pub(super) fn one_of(object: &Value, key: &str, path: &str, allowed: &[&str], checks: &mut Checks) {
    let value = text(object, key);
    if value.is_empty() {
        checks.required(format!("{path}.{key}"), "");
    } else if !allowed.contains(&value) {
        checks.not_supported(format!("{path}.{key}"), value, allowed);
    }
}

/// What checks of containers look at besides the container.
struct Context<'a> {
    spec: &'a Value,
    volumes: &'a HashMap<&'a str, &'a Value>,
    grace: Option<i64>,
}

impl Context<'_> {
    fn containers(&self, path: &str, checks: &mut Checks) {
        let containers = list(self.spec, "containers");
        if containers.is_empty() {
            checks.required(path, "");
            return;
        }
        let mut seen = HashSet::new();
        for (index, container) in containers.iter().enumerate() {
            let path = format!("{path}[{index}]");
            self.common(container, &path, checks);
            if !seen.insert(text(container, "name")) {
                checks.duplicate(format!("{path}.name"), text(container, "name"));
            }
            self.lifecycle_and_probes(container, &path, checks);
            restart_policy(container, &path, checks);
        }
        host_ports(containers, path, checks);
    }

    fn init_containers(&self, path: &str, checks: &mut Checks) {
        let mut seen: HashSet<&str> =
            list(self.spec, "containers").iter().map(|container| text(container, "name")).collect();
        for (index, container) in list(self.spec, "initContainers").iter().enumerate() {
            let path = format!("{path}[{index}]");
            self.common(container, &path, checks);
            let policy = text(container, "restartPolicy");
            restart_policy(container, &path, checks);
            let name = text(container, "name");
            if seen.contains(name) {
                checks.duplicate(format!("{path}.name"), name);
            } else if !name.is_empty() {
                seen.insert(name);
            }
            if policy == "Always" {
                self.lifecycle_and_probes(container, &path, checks);
                continue;
            }
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if at(container, &[field]).is_some() {
                    let path = format!("{path}.{field}");
                    checks.forbidden(path, "may not be set for init containers without restartPolicy=Always");
                }
            }
        }
    }

    fn ephemeral_containers(&self, path: &str, checks: &mut Checks) {
        let others = ["containers", "initContainers"];
        let regular: HashSet<&str> = others
            .iter()
            .flat_map(|field| list(self.spec, field))
            .map(|container| text(container, "name"))
            .collect();
        let mut seen = regular.clone();
        for (index, container) in list(self.spec, "ephemeralContainers").iter().enumerate() {
            let path = format!("{path}[{index}]");
            self.common(container, &path, checks);
            let name = text(container, "name");
            if !seen.insert(name) {
                checks.duplicate(format!("{path}.name"), name);
            }
            let target = text(container, "targetContainerName");
            if !target.is_empty() && !regular.contains(target) {
                checks.not_found(format!("{path}.targetContainerName"), target);
            }
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe", "ports"] {
                if at(container, &[field]).is_some() {
                    checks.forbidden(format!("{path}.{field}"), "cannot be set for an Ephemeral Container");
                }
            }
        }
    }

    fn common(&self, container: &Value, path: &str, checks: &mut Checks) {
        let name = text(container, "name");
        if name.is_empty() {
            checks.required(format!("{path}.name"), "");
        } else {
            checks.invalid_each(&format!("{path}.name"), name, names::dns_label(name));
        }
        if text(container, "image").is_empty() {
            checks.required(format!("{path}.image"), "");
        }
        let messages = ["File", "FallbackToLogsOnError"];
        one_of(container, "terminationMessagePolicy", path, &messages, checks);
        ports(container, &format!("{path}.ports"), checks);
        environment(container, path, checks);
        volumes::mounts(container, self.volumes, path, checks);
        one_of(container, "imagePullPolicy", path, &["Always", "IfNotPresent", "Never"], checks);
        let none = Value::Null;
        resources(container.get("resources").unwrap_or(&none), &format!("{path}.resources"), checks);
        resize_policy(container, &format!("{path}.resizePolicy"), text(self.spec, "restartPolicy"), checks);
        security(
            container.get("securityContext").unwrap_or(&none),
            &format!("{path}.securityContext"),
            checks,
        );
    }

    fn lifecycle_and_probes(&self, container: &Value, path: &str, checks: &mut Checks) {
        for hook in ["postStart", "preStop"] {
            if let Some(handler) = at(container, &["lifecycle", hook]) {
                self.handler(handler, &format!("{path}.lifecycle.{hook}"), checks);
            }
        }
        for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
            let Some(probe) = at(container, &[kind]) else { continue };
            let path = format!("{path}.{kind}");
            self.handler(probe, &path, checks);
            for field in [
                "initialDelaySeconds",
                "timeoutSeconds",
                "periodSeconds",
                "successThreshold",
                "failureThreshold",
            ] {
                checks.nonnegative(probe, field, &path);
            }
            let grace = int(probe, "terminationGracePeriodSeconds");
            if let Some(grace) = grace.filter(|grace| *grace <= 0) {
                let path = format!("{path}.terminationGracePeriodSeconds");
                checks.invalid(path, &Value::from(grace), "must be greater than 0");
            }
            let threshold = int(probe, "successThreshold").unwrap_or_default();
            if kind == "readinessProbe" {
                if let Some(grace) = grace {
                    let path = format!("{path}.terminationGracePeriodSeconds");
                    checks.invalid(path, &Value::from(grace), "must not be set for readinessProbes");
                }
            } else if threshold != 1 {
                checks.invalid(format!("{path}.successThreshold"), &Value::from(threshold), "must be 1");
            }
        }
    }

    fn handler(&self, handler: &Value, path: &str, checks: &mut Checks) {
        let mut found = false;
        for kind in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
            let Some(action) = at(handler, &[kind]) else { continue };
            let path = format!("{path}.{kind}");
            if found {
                checks.forbidden(path, "may not specify more than 1 handler type");
                continue;
            }
            found = true;
            self.action(kind, action, &path, checks);
        }
        if !found {
            checks.required(path, "must specify a handler type");
        }
    }

    fn action(&self, kind: &str, action: &Value, path: &str, checks: &mut Checks) {
        match kind {
            "exec" if list(action, "command").is_empty() => checks.required(format!("{path}.command"), ""),
            "httpGet" => {
                if text(action, "path").is_empty() {
                    checks.required(format!("{path}.path"), "");
                }
                port_reference(action, path, checks);
                let scheme = text(action, "scheme");
                if !["HTTP", "HTTPS"].contains(&scheme) {
                    checks.not_supported(format!("{path}.scheme"), scheme, &["HTTP", "HTTPS"]);
                }
                for header in list(action, "httpHeaders") {
                    let name = text(header, "name");
                    checks.invalid_each(&format!("{path}.httpHeaders"), name, names::header_name(name));
                }
            }
            "tcpSocket" | "grpc" => port_reference(action, path, checks),
            "sleep" => {
                let seconds = int(action, "seconds").unwrap_or_default();
                if let Some(grace) = self.grace.filter(|grace| seconds < 0 || seconds > *grace) {
                    let detail =
                        format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    checks.invalid(path, &Value::from(seconds), &detail);
                }
            }
            _ => {}
        }
    }
}

fn restart_policy(container: &Value, path: &str, checks: &mut Checks) {
    let policy = text(container, "restartPolicy");
    let allowed = ["Always", "Never", "OnFailure"];
    if !policy.is_empty() && !allowed.contains(&policy) {
        checks.not_supported(format!("{path}.restartPolicy"), policy, &allowed);
    }
}

fn port_reference(action: &Value, path: &str, checks: &mut Checks) {
    let path = format!("{path}.port");
    if let Some(name) = action.get("port").and_then(Value::as_str) {
        checks.invalid_each(&path, name, names::port_name(name));
    } else {
        let number = int(action, "port").unwrap_or_default();
        for detail in names::port_number(number) {
            checks.invalid(&path, &Value::from(number), &detail);
        }
    }
}

fn ports(container: &Value, path: &str, checks: &mut Checks) {
    let mut seen = HashSet::new();
    for (index, port) in list(container, "ports").iter().enumerate() {
        let path = format!("{path}[{index}]");
        let name = text(port, "name");
        if !name.is_empty() {
            let errors = names::port_name(name);
            if errors.is_empty() && !seen.insert(name) {
                checks.duplicate(format!("{path}.name"), name);
            }
            checks.invalid_each(&format!("{path}.name"), name, errors);
        }
        let number = int(port, "containerPort").unwrap_or_default();
        if number == 0 {
            checks.required(format!("{path}.containerPort"), "");
        }
        for (field, number) in
            [("containerPort", number), ("hostPort", int(port, "hostPort").unwrap_or_default())]
        {
            if number != 0 {
                for detail in names::port_number(number) {
                    checks.invalid(format!("{path}.{field}"), &Value::from(number), &detail);
                }
            }
        }
        one_of(port, "protocol", &path, &["SCTP", "TCP", "UDP"], checks);
    }
}

fn host_ports(containers: &[Value], path: &str, checks: &mut Checks) {
    let mut taken = HashSet::new();
    for (index, container) in containers.iter().enumerate() {
        for (number, port) in list(container, "ports").iter().enumerate() {
            let host = int(port, "hostPort").unwrap_or_default();
            let key = format!("{}/{}/{host}", text(port, "protocol"), text(port, "hostIP"));
            if host != 0 && !taken.insert(key.clone()) {
                checks.duplicate(format!("{path}[{index}].ports[{number}].hostPort"), &key);
            }
        }
    }
}

fn environment(container: &Value, path: &str, checks: &mut Checks) {
    for (index, variable) in list(container, "env").iter().enumerate() {
        let path = format!("{path}.env[{index}]");
        let name = text(variable, "name");
        if name.is_empty() {
            checks.required(format!("{path}.name"), "");
        } else {
            checks.invalid_each(&format!("{path}.name"), name, names::env_name(name));
        }
        if let Some(source) = at(variable, &["valueFrom"]) {
            value_source(source, !text(variable, "value").is_empty(), &format!("{path}.valueFrom"), checks);
        }
    }
    for (index, source) in list(container, "envFrom").iter().enumerate() {
        let entry = format!("{path}.envFrom[{index}]");
        let prefix = text(source, "prefix");
        checks.invalid_each(&format!("{entry}.prefix"), prefix, names::env_name(prefix));
        let mut sources = 0;
        for kind in ["configMapRef", "secretRef"] {
            let Some(reference) = at(source, &[kind]) else { continue };
            sources += 1;
            let name = text(reference, "name");
            if name.is_empty() {
                checks.required(format!("{entry}.{kind}.name"), "");
            } else {
                checks.invalid_each(&format!("{entry}.{kind}.name"), name, names::dns_subdomain(name));
            }
        }
        let holder = format!("{path}.envFrom");
        if sources == 0 {
            checks.invalid(holder, &Value::from(""), "must specify one of: `configMapRef` or `secretRef`");
        } else if sources > 1 {
            checks.invalid(holder, &Value::from(""), "may not have more than one field specified at a time");
        }
    }
}

fn value_source(source: &Value, has_value: bool, path: &str, checks: &mut Checks) {
    let mut sources = 0;
    if let Some(field) = at(source, &["fieldRef"]) {
        sources += 1;
        field_reference(field, &format!("{path}.fieldRef"), checks);
    }
    if let Some(field) = at(source, &["resourceFieldRef"]) {
        sources += 1;
        let resource = text(field, "resource");
        let path = format!("{path}.resourceFieldRef.resource");
        let known = [
            "limits.cpu",
            "limits.ephemeral-storage",
            "limits.memory",
            "requests.cpu",
            "requests.ephemeral-storage",
            "requests.memory",
        ];
        let pages = ["requests.hugepages-", "limits.hugepages-"];
        if resource.is_empty() {
            checks.required(path, "");
        } else if !known.contains(&resource) && !pages.iter().any(|prefix| resource.starts_with(prefix)) {
            checks.not_supported(path, resource, &known);
        }
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        let Some(reference) = at(source, &[kind]) else { continue };
        sources += 1;
        let (name, key) = (text(reference, "name"), text(reference, "key"));
        checks.invalid_each(&format!("{path}.{kind}.name"), name, names::dns_subdomain(name));
        if key.is_empty() {
            checks.required(format!("{path}.{kind}.key"), "");
        } else {
            checks.invalid_each(&format!("{path}.{kind}.key"), key, names::config_key(key));
        }
    }
    let detail = match sources {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        _ if has_value => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    checks.invalid(path, &Value::from(""), detail);
}

fn field_reference(field: &Value, path: &str, checks: &mut Checks) {
    const PLAIN: [&str; 9] = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    // Known to field selectors of pods, but not here.
    const CONVERTIBLE: [&str; 5] = [
        "metadata.labels",
        "metadata.annotations",
        "spec.restartPolicy",
        "spec.schedulerName",
        "status.phase",
    ];
    let name = text(field, "fieldPath");
    if name.is_empty() {
        checks.required(format!("{path}.fieldPath"), "");
        return;
    }
    let subscript = name.split_once("['").and_then(|(base, rest)| Some((base, rest.strip_suffix("']")?)));
    match subscript {
        Some(("metadata.annotations", key)) => {
            checks.invalid_each(path, key, names::qualified_name(&key.to_lowercase()));
        }
        Some(("metadata.labels", key)) => checks.invalid_each(path, key, names::qualified_name(key)),
        Some((base, _)) => checks.invalid(path, &Value::from(base), "does not support subscript"),
        None if PLAIN.contains(&name) => {}
        None if CONVERTIBLE.contains(&name) => {
            checks.not_supported(format!("{path}.fieldPath"), name, &PLAIN);
        }
        None => {
            let detail = format!("error converting fieldPath: field label not supported: {name}");
            checks.invalid(format!("{path}.fieldPath"), &Value::from(name), &detail);
        }
    }
}

/// Checks requests and limits at `path`.
pub(super) fn resources(resources: &Value, path: &str, checks: &mut Checks) {
    let limits: HashMap<&str, &str> = amounts(resources, "limits").collect();
    for (name, amount) in amounts(resources, "limits") {
        let path = format!("{path}.limits[{name}]");
        resource_name(name, &path, checks);
        nonnegative_quantity(amount, &path, checks);
    }
    for (name, amount) in amounts(resources, "requests") {
        let entry = format!("{path}.requests[{name}]");
        resource_name(name, &entry, checks);
        nonnegative_quantity(amount, &entry, checks);
        let list = format!("{path}.requests");
        let overcommit = !name.contains('/') && !name.starts_with("hugepages-");
        match limits.get(name) {
            Some(limit) => {
                let order = compare(amount, limit);
                if !overcommit && order != Some(std::cmp::Ordering::Equal) {
                    let detail = format!("must be equal to {name} limit of {limit}");
                    checks.invalid(list, &Value::from(amount), &detail);
                } else if order == Some(std::cmp::Ordering::Greater) {
                    let detail = format!("must be less than or equal to {name} limit of {limit}");
                    checks.invalid(list, &Value::from(amount), &detail);
                }
            }
            None if !overcommit => {
                checks
                    .required(format!("{path}.limits"), "Limit must be set for non overcommitable resources");
            }
            None => {}
        }
    }
}

/// Compares two quantities.
pub(super) fn compare(one: &str, other: &str) -> Option<std::cmp::Ordering> {
    Some(Quantity::parse(one)?.nano().cmp(&Quantity::parse(other)?.nano()))
}

fn amounts<'a>(resources: &'a Value, key: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    pairs(resources, key).filter_map(|(name, amount)| Some((name.as_str(), amount.as_str()?)))
}

fn nonnegative_quantity(amount: &str, path: &str, checks: &mut Checks) {
    if Quantity::parse(amount).is_some_and(|quantity| quantity.nano() < 0) {
        checks.invalid(path, &Value::from(amount), "must be greater than or equal to 0");
    }
}

fn resource_name(name: &str, path: &str, checks: &mut Checks) {
    let errors = names::qualified_name(name);
    let sound = errors.is_empty();
    checks.invalid_each(path, name, errors);
    let standard = ["cpu", "memory", "ephemeral-storage"].contains(&name) || name.starts_with("hugepages-");
    if !name.contains('/') && !standard {
        let elsewhere =
            ["storage", "pods", "services", "secrets", "configmaps", "resourcequotas"].contains(&name);
        if sound && !elsewhere {
            checks.invalid(path, &Value::from(name), "must be a standard resource type or fully qualified");
        }
        checks.invalid(path, &Value::from(name), "must be a standard resource for containers");
    }
}

fn security(context: &Value, path: &str, checks: &mut Checks) {
    let range = 0..=i64::from(i32::MAX);
    for field in ["runAsUser", "runAsGroup"] {
        if let Some(id) = int(context, field).filter(|id| !range.contains(id)) {
            checks.invalid(format!("{path}.{field}"), &Value::from(id), &names::range(0, i32::MAX.into()));
        }
    }
    if flag(context, "privileged") && context.get("allowPrivilegeEscalation") == Some(&Value::Bool(false)) {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        checks.invalid(path, context, detail);
    }
}

fn resize_policy(container: &Value, path: &str, restart: &str, checks: &mut Checks) {
    let mut seen = HashSet::new();
    for (index, policy) in list(container, "resizePolicy").iter().enumerate() {
        let (resource, action) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if !seen.insert(resource) {
            checks.duplicate(format!("{path}[{index}]"), resource);
        }
        for (value, allowed) in [(resource, ["cpu", "memory"]), (action, ["NotRequired", "RestartContainer"])]
        {
            if value.is_empty() {
                checks.required(path, "");
            } else if !allowed.contains(&value) {
                checks.not_supported(path, value, &allowed);
            }
        }
        if restart == "Never" && action != "NotRequired" {
            checks.invalid(
                path,
                &Value::from(action),
                "must be 'NotRequired' when `restartPolicy` is 'Never'",
            );
        }
    }
}
