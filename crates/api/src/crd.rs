//! The CustomResourceDefinitions of Kruise.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceConversion, CustomResourceDefinition,
    CustomResourceSubresourceScale, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
    ServiceReference, WebhookClientConfig, WebhookConversion,
};
use kube::CustomResourceExt;

use crate::cloneset;

/// Namespace of the webhook service, as installed by default.
pub const WEBHOOK_NAMESPACE: &str = "kruise-system";
/// Name of the webhook service.
pub const WEBHOOK_SERVICE: &str = "kruise-webhook-service";
/// Path the API server posts conversion reviews to.
pub const CONVERSION_PATH: &str = "/convert";

/// Every CustomResourceDefinition this build knows.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![clonesets()]
}

/// The definition of CloneSet: v1beta1 is stored, v1alpha1 is converted by the webhook.
pub fn clonesets() -> CustomResourceDefinition {
    let mut crd = merged(cloneset::v1beta1::CloneSet::crd(), cloneset::v1alpha1::CloneSet::crd());
    for version in &mut crd.spec.versions {
        version.additional_printer_columns = Some(cloneset_columns());
        if let Some(subresources) = version.subresources.as_mut() {
            subresources.scale = Some(CustomResourceSubresourceScale {
                spec_replicas_path: ".spec.replicas".to_owned(),
                status_replicas_path: ".status.replicas".to_owned(),
                label_selector_path: Some(".status.labelSelector".to_owned()),
            });
        }
    }
    crd
}

fn cloneset_columns() -> Vec<CustomResourceColumnDefinition> {
    vec![
        column("DESIRED", "integer", ".spec.replicas", "Number of pods wanted."),
        column("UPDATED", "integer", ".status.updatedReplicas", "Number of pods at the update revision."),
        column(
            "UPDATED_READY",
            "integer",
            ".status.updatedReadyReplicas",
            "Number of pods at the update revision that are Ready.",
        ),
        column(
            "UPDATED_AVAILABLE",
            "integer",
            ".status.updatedAvailableReplicas",
            "Number of pods at the update revision that are available.",
        ),
        column("READY", "integer", ".status.readyReplicas", "Number of pods that are Ready."),
        column("TOTAL", "integer", ".status.replicas", "Number of pods there are."),
        column("AGE", "date", ".metadata.creationTimestamp", "Time since the CloneSet was created."),
        wide(column(
            "CONTAINERS",
            "string",
            ".spec.template.spec.containers[*].name",
            "Containers of the template.",
        )),
        wide(column(
            "IMAGES",
            "string",
            ".spec.template.spec.containers[*].image",
            "Images of the template.",
        )),
        wide(column("SELECTOR", "string", ".status.labelSelector", "Selector of the pods.")),
    ]
}

fn column(name: &str, type_: &str, path: &str, description: &str) -> CustomResourceColumnDefinition {
    CustomResourceColumnDefinition {
        name: name.to_owned(),
        type_: type_.to_owned(),
        json_path: path.to_owned(),
        description: Some(description.to_owned()),
        ..Default::default()
    }
}

/// Shown with `-o wide` only.
fn wide(column: CustomResourceColumnDefinition) -> CustomResourceColumnDefinition {
    CustomResourceColumnDefinition { priority: Some(1), ..column }
}

/// One definition with the versions of both, converted by the webhook.
fn merged(stored: CustomResourceDefinition, served: CustomResourceDefinition) -> CustomResourceDefinition {
    let mut crd = stored;
    for mut version in served.spec.versions {
        version.storage = false;
        crd.spec.versions.push(version);
    }
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            tidy(schema);
        }
    }
    crd.spec.names.list_kind = Some(format!("{}List", crd.spec.names.kind));
    crd.spec.names.categories = None;
    crd.spec.conversion = Some(CustomResourceConversion {
        strategy: "Webhook".to_owned(),
        webhook: Some(WebhookConversion {
            client_config: Some(WebhookClientConfig {
                service: Some(ServiceReference {
                    name: WEBHOOK_SERVICE.to_owned(),
                    namespace: WEBHOOK_NAMESPACE.to_owned(),
                    path: Some(CONVERSION_PATH.to_owned()),
                    port: None,
                }),
                ..Default::default()
            }),
            conversion_review_versions: vec!["v1".to_owned(), "v1beta1".to_owned()],
        }),
    });
    crd
}

/// Takes out what generated schemas say beyond the structural form: optional is not nullable in Kubernetes, and
/// the server adds the alternatives of an int-or-string itself.
fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if schema.x_kubernetes_int_or_string == Some(true) {
        schema.any_of = None;
        schema.type_ = None;
    }
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        tidy(property);
    }
    match schema.items.as_mut() {
        Some(JSONSchemaPropsOrArray::Schema(item)) => tidy(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(tidy),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        tidy(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn manifest() -> Value {
        serde_json::to_value(clonesets()).unwrap()
    }

    fn schema_of(version: &str) -> Value {
        let manifest = manifest();
        let versions = manifest["spec"]["versions"].as_array().unwrap();
        versions.iter().find(|v| v["name"] == version).unwrap()["schema"]["openAPIV3Schema"].clone()
    }

    fn walk(value: &Value, path: &str, see: &mut dyn FnMut(&str, &serde_json::Map<String, Value>)) {
        match value {
            Value::Object(map) => {
                see(path, map);
                for (key, inner) in map {
                    walk(inner, &format!("{path}/{key}"), see);
                }
            }
            Value::Array(items) => items.iter().for_each(|inner| walk(inner, path, see)),
            _ => {}
        }
    }

    #[test]
    fn only_v1beta1_is_stored_and_both_versions_are_served() {
        let manifest = manifest();
        let seen: Vec<_> = manifest["spec"]["versions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| (v["name"].clone(), v["served"].clone(), v["storage"].clone()))
            .collect();
        assert_eq!(
            seen,
            [(json!("v1beta1"), json!(true), json!(true)), (json!("v1alpha1"), json!(true), json!(false))]
        );
    }

    #[test]
    fn both_versions_have_the_status_and_scale_subresources() {
        for version in manifest()["spec"]["versions"].as_array().unwrap() {
            assert_eq!(
                version["subresources"],
                json!({"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.labelSelector"}})
            );
        }
    }

    #[test]
    fn columns_are_those_of_the_specification_in_order() {
        let manifest = manifest();
        for version in manifest["spec"]["versions"].as_array().unwrap() {
            let columns = version["additionalPrinterColumns"].as_array().unwrap();
            let names: Vec<_> = columns.iter().map(|c| c["name"].as_str().unwrap()).collect();
            assert_eq!(
                names.join(" "),
                "DESIRED UPDATED UPDATED_READY UPDATED_AVAILABLE READY TOTAL AGE CONTAINERS IMAGES SELECTOR"
            );
            assert!(columns.iter().skip(7).all(|c| c["priority"] == 1));
        }
    }

    #[test]
    fn conversion_goes_to_the_webhook_service() {
        assert_eq!(
            manifest()["spec"]["conversion"],
            json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1", "v1beta1"],
                "clientConfig": {"service": {"name": "kruise-webhook-service", "namespace": "kruise-system",
                    "path": "/convert"}}}})
        );
    }

    #[test]
    fn nothing_is_nullable_and_nothing_has_alternatives() {
        for version in ["v1beta1", "v1alpha1"] {
            walk(&schema_of(version), "", &mut |path, map| {
                for word in ["nullable", "anyOf", "oneOf", "allOf", "$ref", "definitions"] {
                    assert!(!map.contains_key(word), "{version}{path} has {word}");
                }
            });
        }
    }

    #[test]
    fn every_property_says_what_it_is_and_what_type_it_has() {
        for version in ["v1beta1", "v1alpha1"] {
            walk(&schema_of(version), "", &mut |path, map| {
                let Some(properties) = map.get("properties").and_then(Value::as_object) else { return };
                for (name, property) in properties {
                    let typed = property.get("type").is_some()
                        || property["x-kubernetes-int-or-string"] == true
                        || property["x-kubernetes-preserve-unknown-fields"] == true;
                    assert!(typed, "{version}{path}/{name} has no type");
                    assert!(
                        property.get("description").is_some() || name == "metadata",
                        "{version}{path}/{name} has no description"
                    );
                }
            });
        }
    }

    #[test]
    fn numbers_that_may_be_percentages_are_int_or_string() {
        let spec = &schema_of("v1beta1")["properties"]["spec"]["properties"];
        let rolling = &spec["updateStrategy"]["properties"]["rollingUpdate"]["properties"];
        for field in [
            &rolling["partition"],
            &rolling["maxUnavailable"],
            &rolling["maxSurge"],
            &spec["scaleStrategy"]["properties"]["maxUnavailable"],
            &rolling["inPlaceUpdateStrategy"]["properties"]["imagePreDownloadParallelism"],
        ] {
            assert_eq!(field["x-kubernetes-int-or-string"], true);
        }
    }

    #[test]
    fn what_must_be_given_is_required() {
        for version in ["v1beta1", "v1alpha1"] {
            let schema = schema_of(version);
            assert_eq!(schema["properties"]["spec"]["required"], json!(["selector", "template"]));
            let mut required: Vec<String> =
                serde_json::from_value(schema["properties"]["status"]["required"].clone()).unwrap();
            required.sort();
            assert_eq!(
                required,
                ["availableReplicas", "readyReplicas", "replicas", "updatedReadyReplicas", "updatedReplicas"]
            );
        }
    }

    #[test]
    fn templates_keep_fields_the_schema_does_not_know() {
        for version in ["v1beta1", "v1alpha1"] {
            let spec = &schema_of(version)["properties"]["spec"]["properties"];
            for field in ["template", "volumeClaimTemplates"] {
                assert_eq!(spec[field]["x-kubernetes-preserve-unknown-fields"], true, "{field}");
                assert!(spec[field].get("properties").is_none());
            }
        }
    }

    #[test]
    fn reuse_of_volume_claims_is_off_unless_asked_for() {
        let spec = &schema_of("v1beta1")["properties"]["spec"]["properties"];
        assert_eq!(spec["scaleStrategy"]["properties"]["enablePVCReuse"]["default"], false);
    }
}
