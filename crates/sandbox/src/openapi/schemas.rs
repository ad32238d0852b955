//! Schemas of built-in kinds, made from those of `k8s-openapi`, and those of custom kinds.

use std::sync::OnceLock;

use k8s_openapi::{api, apiextensions_apiserver, apimachinery, kube_aggregator};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{SCHEMAS, extensions};
use crate::resource::{Resource, Version};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Schemas of all built-in structures by name.
pub(super) fn all() -> &'static Map<String, Value> {
    static ALL: OnceLock<Map<String, Value>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut schemas = generated();
        for (name, schema) in &mut schemas {
            adapt(schema);
            relax(name, schema);
        }
        extensions::add(&mut schemas);
        for resource in crate::builtin::resources() {
            for version in &resource.versions {
                if let Some(name) =
                    crate::kinds::structure_name(&resource.group, &version.name, &resource.kind)
                {
                    mark(schemas.get_mut(name), &resource.group, &version.name, &resource.kind);
                }
            }
        }
        for (group, version, kind) in [
            ("autoscaling", "v1", "Scale"),
            ("policy", "v1", "Eviction"),
            ("authentication.k8s.io", "v1", "TokenRequest"),
        ] {
            if let Some(name) = crate::kinds::structure_name(group, version, kind) {
                mark(schemas.get_mut(name), group, version, kind);
            }
        }
        schemas
    })
}

/// The schema of a custom kind with the fields every object has.
pub(super) fn custom(resource: &Resource, version: &Version, schema: &Value) -> Value {
    let mut schema = schema.clone();
    if !schema.is_object() {
        schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    }
    if let Some(fields) = schema.as_object_mut() {
        let properties = fields.entry("properties").or_insert_with(|| json!({}));
        if let (Some(properties), Some(pod)) =
            (properties.as_object_mut(), all().get("io.k8s.api.core.v1.Pod"))
        {
            for field in ["apiVersion", "kind", "metadata"] {
                if let Some(known) = pod.get("properties").and_then(|known| known.get(field)) {
                    properties.insert(field.to_owned(), known.clone());
                }
            }
        }
    }
    mark(Some(&mut schema), &resource.group, &version.name, &resource.kind);
    schema
}

/// The schema of a list of objects whose schema has the given name.
pub(super) fn list(resource: &Resource, version: &Version, item: &str) -> Value {
    let pod = all().get("io.k8s.api.core.v1.Pod").and_then(|pod| pod.get("properties"));
    let general = |field: &str| {
        pod.and_then(|pod| pod.get(field)).cloned().unwrap_or_else(|| json!({"type": "string"}))
    };
    let mut schema = json!({
        "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": general("apiVersion"),
            "kind": general("kind"),
            "metadata": {
                "description": "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
                "allOf": [{"$ref": format!("{SCHEMAS}{META}.ListMeta")}],
            },
            "items": {
                "description": format!("List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", resource.plural),
                "type": "array",
                "items": {"allOf": [{"$ref": format!("{SCHEMAS}{item}")}]},
            },
        },
    });
    mark(Some(&mut schema), &resource.group, &version.name, &resource.list_kind);
    schema
}

fn mark(schema: Option<&mut Value>, group: &str, version: &str, kind: &str) {
    if let Some(fields) = schema.and_then(Value::as_object_mut) {
        let known = json!([{"group": group, "version": version, "kind": kind}]);
        fields.insert("x-kubernetes-group-version-kind".to_owned(), known);
    }
}

/// Brings a generated schema into the form in which the API server publishes it.
fn adapt(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            // Beside a reference nothing else counts, so that what describes the field stands around it.
            if fields.len() > 1
                && let Some(reference) = fields.remove("$ref")
            {
                fields.insert("allOf".to_owned(), json!([{"$ref": reference}]));
            }
            if fields.remove("x-kubernetes-int-or-string").is_some() {
                let quantity = fields
                    .get("description")
                    .and_then(Value::as_str)
                    .is_some_and(|text| text.starts_with("Quantity is a fixed-point"));
                if quantity {
                    fields.insert("oneOf".to_owned(), json!([{"type": "string"}, {"type": "number"}]));
                } else {
                    fields.insert("format".to_owned(), json!("int-or-string"));
                    fields.insert("oneOf".to_owned(), json!([{"type": "integer"}, {"type": "string"}]));
                }
            }
            fields.values_mut().for_each(adapt);
        }
        Value::Array(items) => items.iter_mut().for_each(adapt),
        _ => {}
    }
}

/// References whose name the API server publishes as optional.
const MAY_BE_NAMELESS: [&str; 8] = [
    "ConfigMapEnvSource",
    "ConfigMapKeySelector",
    "ConfigMapProjection",
    "ConfigMapVolumeSource",
    "LocalObjectReference",
    "SecretEnvSource",
    "SecretKeySelector",
    "SecretProjection",
];

/// Takes back what the crate of types requires and the API server does not.
fn relax(name: &str, schema: &mut Value) {
    let (module, short) = name.rsplit_once('.').unwrap_or(("", name));
    let is_object = schema.pointer("/properties/apiVersion").is_some() && short != "Event";
    let is_nameless = module == "io.k8s.api.core.v1" && MAY_BE_NAMELESS.contains(&short);
    let Some(fields) = schema.as_object_mut() else { return };
    let Some(required) = fields.get_mut("required").and_then(Value::as_array_mut) else { return };
    required.retain(|field| !(is_object && field == "metadata" || is_nameless && field == "name"));
    if required.is_empty() {
        fields.remove("required");
    }
}

macro_rules! register {
    ($generator:expr, $($module:ident)::+, $($kind:ident),+) => {{
        use $($module)::+::{$($kind),+};
        $($generator.subschema_for::<$kind>();)+
    }};
}

/// Every schema as the crate of types describes it.
fn generated() -> Map<String, Value> {
    let settings = SchemaSettings::openapi3().with(|settings| settings.transforms.clear());
    let mut generator = SchemaGenerator::new(settings);
    register!(
        &mut generator,
        api::admissionregistration::v1,
        MutatingWebhookConfiguration,
        ValidatingAdmissionPolicy,
        ValidatingAdmissionPolicyBinding,
        ValidatingWebhookConfiguration
    );
    register!(
        &mut generator,
        api::apps::v1,
        ControllerRevision,
        DaemonSet,
        Deployment,
        ReplicaSet,
        StatefulSet
    );
    register!(&mut generator, api::authentication::v1, SelfSubjectReview, TokenRequest, TokenReview);
    register!(
        &mut generator,
        api::authorization::v1,
        LocalSubjectAccessReview,
        SelfSubjectAccessReview,
        SelfSubjectRulesReview,
        SubjectAccessReview
    );
    register!(&mut generator, api::autoscaling::v1, HorizontalPodAutoscaler, Scale);
    register!(&mut generator, api::autoscaling::v2, HorizontalPodAutoscaler);
    register!(&mut generator, api::batch::v1, CronJob, Job);
    register!(&mut generator, api::certificates::v1, CertificateSigningRequest);
    register!(&mut generator, api::coordination::v1, Lease);
    register!(
        &mut generator,
        api::core::v1,
        Binding,
        ComponentStatus,
        ConfigMap,
        Endpoints,
        Event,
        LimitRange,
        Namespace,
        Node,
        PersistentVolume,
        PersistentVolumeClaim,
        Pod,
        PodTemplate,
        ReplicationController,
        ResourceQuota,
        Secret,
        Service,
        ServiceAccount
    );
    register!(&mut generator, api::discovery::v1, EndpointSlice);
    register!(&mut generator, api::events::v1, Event);
    register!(&mut generator, api::flowcontrol::v1, FlowSchema, PriorityLevelConfiguration);
    register!(
        &mut generator,
        api::networking::v1,
        IPAddress,
        Ingress,
        IngressClass,
        NetworkPolicy,
        ServiceCIDR
    );
    register!(&mut generator, api::node::v1, RuntimeClass);
    register!(&mut generator, api::policy::v1, Eviction, PodDisruptionBudget);
    register!(&mut generator, api::rbac::v1, ClusterRole, ClusterRoleBinding, Role, RoleBinding);
    register!(
        &mut generator,
        api::resource::v1,
        DeviceClass,
        ResourceClaim,
        ResourceClaimTemplate,
        ResourceSlice
    );
    register!(&mut generator, api::scheduling::v1, PriorityClass);
    register!(
        &mut generator,
        api::storage::v1,
        CSIDriver,
        CSINode,
        CSIStorageCapacity,
        StorageClass,
        VolumeAttachment,
        VolumeAttributesClass
    );
    register!(
        &mut generator,
        apiextensions_apiserver::pkg::apis::apiextensions::v1,
        CustomResourceDefinition
    );
    register!(
        &mut generator,
        apimachinery::pkg::apis::meta::v1,
        APIResourceList,
        DeleteOptions,
        ListMeta,
        Patch,
        Status
    );
    register!(&mut generator, kube_aggregator::pkg::apis::apiregistration::v1, APIService);
    generator.take_definitions(false)
}
