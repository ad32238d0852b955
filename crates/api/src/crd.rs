//! The CustomResourceDefinitions of Kruise.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceConversion, CustomResourceDefinition,
    CustomResourceSubresourceScale, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
    ServiceReference, WebhookClientConfig, WebhookConversion,
};
use kube::CustomResourceExt;

use crate::{
    advancedcronjob, broadcastjob, cloneset, containerrecreaterequest, imagelistpulljob, imagepulljob,
    nodeimage,
};

/// Namespace of the webhook service, as installed by default.
pub const WEBHOOK_NAMESPACE: &str = "kruise-system";
/// Name of the webhook service.
pub const WEBHOOK_SERVICE: &str = "kruise-webhook-service";
/// Path the API server posts conversion reviews to.
pub const CONVERSION_PATH: &str = "/convert";

/// Every CustomResourceDefinition this build knows.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        clonesets(),
        imagepulljobs(),
        imagelistpulljobs(),
        nodeimages(),
        containerrecreaterequests(),
        broadcastjobs(),
        advancedcronjobs(),
    ]
}

/// The definition of ImagePullJob: both versions have one schema, so nothing is converted.
pub fn imagepulljobs() -> CustomResourceDefinition {
    let columns = [
        ("TOTAL", "integer", ".status.desired", "Number of nodes that should have the image."),
        ("ACTIVE", "integer", ".status.active", "Number of nodes that are pulling or about to."),
        ("SUCCEED", "integer", ".status.succeeded", "Number of nodes that have the image."),
        ("FAILED", "integer", ".status.failed", "Number of nodes that gave up."),
        ("AGE", "date", ".metadata.creationTimestamp", "Time since the job was created."),
    ];
    let mut crd = with_v1alpha1(imagepulljob::ImagePullJob::crd(), &columns, |_| {});
    for version in crd.spec.versions.iter_mut().filter(|version| !version.storage) {
        let message = column("MESSAGE", "string", ".status.message", "How the job stands, in words.");
        version.additional_printer_columns.get_or_insert_default().push(message);
    }
    crd
}

/// The definition of ImageListPullJob: both versions have one schema, so nothing is converted.
pub fn imagelistpulljobs() -> CustomResourceDefinition {
    let columns = [
        ("TOTAL", "integer", ".status.desired", "Number of images."),
        ("SUCCEEDED", "integer", ".status.succeeded", "Number of images that all nodes have."),
        ("COMPLETED", "integer", ".status.completed", "Number of images no node has to pull any more."),
        ("AGE", "date", ".metadata.creationTimestamp", "Time since the job was created."),
    ];
    with_v1alpha1(imagelistpulljob::ImageListPullJob::crd(), &columns, |_| {})
}

/// The definition of NodeImage: v1alpha1 only lacks the mode of pull secrets, so nothing is converted.
pub fn nodeimages() -> CustomResourceDefinition {
    let columns = [
        ("DESIRED", "integer", ".status.desired", "Number of pulls asked for."),
        ("PULLING", "integer", ".status.pulling", "Number of pulls that are running."),
        ("SUCCEED", "integer", ".status.succeeded", "Number of pulls that succeeded."),
        ("FAILED", "integer", ".status.failed", "Number of pulls that failed for good."),
        ("AGE", "date", ".metadata.creationTimestamp", "Time since the object was created."),
    ];
    with_v1alpha1(nodeimage::NodeImage::crd(), &columns, |schema| {
        remove_property(schema, &["spec", "images", "pullSecrets"], "mode");
    })
}

/// The definition of ContainerRecreateRequest: v1beta1 is stored, v1alpha1 is converted by the webhook. v1alpha1 has
/// none of the checks and keeps two fields of the status in annotations.
pub fn containerrecreaterequests() -> CustomResourceDefinition {
    let columns = [
        ("PHASE", "string", ".status.phase", "How far the request is."),
        ("POD", "string", ".spec.podName", "The pod whose containers are restarted."),
        ("NODE", "string", r".metadata.labels.crr\.apps\.kruise\.io/node-name", "The pod's node."),
        ("AGE", "date", ".metadata.creationTimestamp", "Time since the request was created."),
    ];
    let stored = containerrecreaterequest::ContainerRecreateRequest::crd();
    let mut crd = with_v1alpha1(stored, &columns, |schema| {
        remove_property(schema, &["status"], "containerStatusSnapshot");
        remove_property(schema, &["status"], "conditions");
        walk(schema, &mut |schema| {
            schema.minimum = None;
            schema.enum_ = None;
        });
    });
    crd.spec.conversion = Some(by_webhook());
    crd
}

/// The definition of BroadcastJob: both versions have one schema, so nothing is converted.
pub fn broadcastjobs() -> CustomResourceDefinition {
    let columns = [
        ("Desired", "integer", ".status.desired", "Number of nodes that should have run the pod in the end."),
        ("Active", "integer", ".status.active", "Number of pods that run or are about to."),
        ("Succeeded", "integer", ".status.succeeded", "Number of pods that ended well."),
        ("Failed", "integer", ".status.failed", "Number of pods that failed."),
        ("AGE", "date", ".metadata.creationTimestamp", "Time since the job was created."),
    ];
    with_v1alpha1(broadcastjob::BroadcastJob::crd(), &columns, |_| {})
}

/// The definition of AdvancedCronJob: v1alpha1 only lacks one kind of template, so nothing is converted.
pub fn advancedcronjobs() -> CustomResourceDefinition {
    let columns = [
        ("Schedule", "string", ".spec.schedule", "When it runs."),
        ("Type", "string", ".status.type", "The kind of its jobs."),
        ("LastScheduleTime", "date", ".status.lastScheduleTime", "Time since it last ran by schedule."),
        ("AGE", "date", ".metadata.creationTimestamp", "Time since the object was created."),
    ];
    with_v1alpha1(advancedcronjob::AdvancedCronJob::crd(), &columns, |schema| {
        remove_property(schema, &["spec", "template"], "imageListPullJobTemplate");
    })
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
    finish(&mut crd);
    crd.spec.conversion = Some(by_webhook());
    crd
}

/// A definition that also serves v1alpha1, with the schema that `older` makes of the stored one.
fn with_v1alpha1(
    stored: CustomResourceDefinition,
    columns: &[(&str, &str, &str, &str)],
    older: impl FnOnce(&mut JSONSchemaProps),
) -> CustomResourceDefinition {
    let mut crd = stored;
    finish(&mut crd);
    let columns: Vec<_> =
        columns.iter().map(|(name, of, path, about)| column(name, of, path, about)).collect();
    for version in &mut crd.spec.versions {
        version.additional_printer_columns = Some(columns.clone());
    }
    if let Some(mut version) = crd.spec.versions.first().cloned() {
        "v1alpha1".clone_into(&mut version.name);
        version.storage = false;
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            older(schema);
        }
        crd.spec.versions.push(version);
    }
    crd
}

/// What every definition needs that the derived one does not have.
fn finish(crd: &mut CustomResourceDefinition) {
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            walk(schema, &mut tidy);
        }
    }
    crd.spec.names.list_kind = Some(format!("{}List", crd.spec.names.kind));
    crd.spec.names.categories = None;
}

fn by_webhook() -> CustomResourceConversion {
    CustomResourceConversion {
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
    }
}

/// Takes out what a generated schema says beyond the structural form: optional is not nullable in Kubernetes, and
/// the server adds the alternatives of an int-or-string itself.
fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if schema.x_kubernetes_int_or_string == Some(true) {
        schema.any_of = None;
        schema.type_ = None;
    }
}

/// Changes a schema and every schema in it.
fn walk(schema: &mut JSONSchemaProps, change: &mut impl FnMut(&mut JSONSchemaProps)) {
    change(schema);
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        walk(property, change);
    }
    match schema.items.as_mut() {
        Some(JSONSchemaPropsOrArray::Schema(item)) => walk(item, change),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(|item| walk(item, change)),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        walk(values, change);
    }
}

/// Removes a property below a path of properties, through the lists and maps on its way.
fn remove_property(schema: &mut JSONSchemaProps, path: &[&str], name: &str) {
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = schema.items.as_mut() {
        return remove_property(item, path, name);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        return remove_property(values, path, name);
    }
    let Some(properties) = schema.properties.as_mut() else { return };
    match path.split_first() {
        Some((first, rest)) => {
            if let Some(property) = properties.get_mut(*first) {
                remove_property(property, rest, name);
            }
        }
        None => {
            properties.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Every version's schema, with the name of kind and version.
    fn schemas() -> Vec<(String, Value)> {
        let manifests = all().into_iter().map(|crd| serde_json::to_value(crd).unwrap());
        manifests
            .flat_map(|manifest| {
                let kind = manifest["spec"]["names"]["kind"].as_str().unwrap().to_owned();
                let versions = manifest["spec"]["versions"].as_array().unwrap().clone();
                versions.into_iter().map(move |version| {
                    let name = format!("{kind} {}", version["name"].as_str().unwrap());
                    (name, version["schema"]["openAPIV3Schema"].clone())
                })
            })
            .collect()
    }

    fn manifest() -> Value {
        serde_json::to_value(clonesets()).unwrap()
    }

    fn schema_of(version: &str) -> Value {
        let manifest = manifest();
        let versions = manifest["spec"]["versions"].as_array().unwrap();
        versions.iter().find(|v| v["name"] == version).unwrap()["schema"]["openAPIV3Schema"].clone()
    }

    fn each(value: &Value, path: &str, see: &mut dyn FnMut(&str, &serde_json::Map<String, Value>)) {
        match value {
            Value::Object(map) => {
                see(path, map);
                for (key, inner) in map {
                    each(inner, &format!("{path}/{key}"), see);
                }
            }
            Value::Array(items) => items.iter().for_each(|inner| each(inner, path, see)),
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
        for (version, schema) in schemas() {
            each(&schema, "", &mut |path, map| {
                for word in ["nullable", "anyOf", "oneOf", "allOf", "$ref", "definitions"] {
                    assert!(!map.contains_key(word), "{version}{path} has {word}");
                }
            });
        }
    }

    #[test]
    fn every_property_says_what_it_is_and_what_type_it_has() {
        for (version, schema) in schemas() {
            each(&schema, "", &mut |path, map| {
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

    /// The schema of a version, and the definition as JSON.
    fn served(crd: CustomResourceDefinition, version: &str) -> (Value, Value) {
        let manifest = serde_json::to_value(crd).unwrap();
        let versions = manifest["spec"]["versions"].as_array().unwrap();
        let version = versions.iter().find(|v| v["name"] == version).unwrap();
        (version["schema"]["openAPIV3Schema"]["properties"].clone(), manifest)
    }

    fn columns_of(crd: CustomResourceDefinition) -> Vec<String> {
        let versions = crd.spec.versions.into_iter();
        let names = |columns: Vec<CustomResourceColumnDefinition>| {
            columns.into_iter().map(|column| column.name).collect::<Vec<_>>().join(" ")
        };
        versions.map(|v| format!("{} {}", v.name, names(v.additional_printer_columns.unwrap()))).collect()
    }

    #[test]
    fn kinds_about_images_have_the_columns_of_the_specification() {
        assert_eq!(
            columns_of(imagepulljobs()),
            ["v1beta1 TOTAL ACTIVE SUCCEED FAILED AGE", "v1alpha1 TOTAL ACTIVE SUCCEED FAILED AGE MESSAGE"]
        );
        let list = "TOTAL SUCCEEDED COMPLETED AGE";
        assert_eq!(columns_of(imagelistpulljobs()), [format!("v1beta1 {list}"), format!("v1alpha1 {list}")]);
        let node = "DESIRED PULLING SUCCEED FAILED AGE";
        assert_eq!(columns_of(nodeimages()), [format!("v1beta1 {node}"), format!("v1alpha1 {node}")]);
        let crr = "PHASE POD NODE AGE";
        assert_eq!(
            columns_of(containerrecreaterequests()),
            [format!("v1beta1 {crr}"), format!("v1alpha1 {crr}")]
        );
    }

    #[test]
    fn kinds_about_images_are_not_converted_and_have_a_status() {
        for (crd, scope) in
            [(imagepulljobs(), "Namespaced"), (imagelistpulljobs(), "Namespaced"), (nodeimages(), "Cluster")]
        {
            let (_, manifest) = served(crd, "v1beta1");
            assert_eq!(manifest["spec"].get("conversion"), None);
            assert_eq!(manifest["spec"]["scope"], scope);
            assert_eq!(manifest["spec"]["names"].get("shortNames"), None);
            for version in manifest["spec"]["versions"].as_array().unwrap() {
                assert_eq!(version["subresources"], json!({"status": {}}));
            }
        }
    }

    #[test]
    fn shared_fields_of_the_jobs_are_beside_their_own() {
        for (crd, required) in [
            (imagepulljobs(), json!(["completionPolicy", "image"])),
            (imagelistpulljobs(), json!(["completionPolicy", "images"])),
        ] {
            let (schema, _) = served(crd, "v1alpha1");
            assert_eq!(schema["spec"]["required"], required);
            assert_eq!(schema["spec"]["properties"]["parallelism"]["x-kubernetes-int-or-string"], true);
            assert_eq!(schema["status"]["required"], json!(["desired"]));
            assert_eq!(schema["status"]["properties"]["active"].get("default"), None);
        }
    }

    #[test]
    fn only_v1beta1_knows_the_mode_of_pull_secrets() {
        let secrets = |version| {
            let image = served(nodeimages(), version).0["spec"]["properties"]["images"].clone();
            let secrets = &image["additionalProperties"]["properties"]["pullSecrets"]["items"]["properties"];
            secrets.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(secrets("v1beta1"), ["mode", "name", "namespace"]);
        assert_eq!(secrets("v1alpha1"), ["name", "namespace"]);
    }

    #[test]
    fn cron_jobs_have_three_templates_of_which_v1alpha1_knows_two_and_keep_what_they_do_not_know() {
        let columns = "Schedule Type LastScheduleTime AGE";
        assert_eq!(
            columns_of(advancedcronjobs()),
            [format!("v1beta1 {columns}"), format!("v1alpha1 {columns}")]
        );
        let templates =
            |version| served(advancedcronjobs(), version).0["spec"]["properties"]["template"].clone();
        let names = |version| {
            let templates = templates(version);
            templates["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(names("v1beta1"), ["broadcastJobTemplate", "imageListPullJobTemplate", "jobTemplate"]);
        assert_eq!(names("v1alpha1"), ["broadcastJobTemplate", "jobTemplate"]);
        let kept = |path: &str| {
            templates("v1beta1").pointer(path).unwrap()["x-kubernetes-preserve-unknown-fields"] == true
        };
        assert!(kept("/properties/jobTemplate"));
        assert!(kept("/properties/broadcastJobTemplate/properties/metadata"));
        assert!(kept("/properties/imageListPullJobTemplate/properties/metadata"));
        let list = &templates("v1beta1")["properties"]["imageListPullJobTemplate"]["properties"]["spec"];
        assert_eq!(list["required"], json!(["completionPolicy", "images"]));
        let (schema, manifest) = served(advancedcronjobs(), "v1beta1");
        assert_eq!(schema["spec"]["required"], json!(["schedule", "template"]));
        assert_eq!(
            schema["spec"]["properties"]["concurrencyPolicy"]["enum"],
            json!(["Allow", "Forbid", "Replace"])
        );
        assert_eq!(manifest["spec"].get("conversion"), None);
        assert_eq!(manifest["spec"]["names"]["shortNames"], json!(["acj"]));
    }

    #[test]
    fn recreate_requests_are_checked_in_v1beta1_only() {
        let (beta, manifest) = served(containerrecreaterequests(), "v1beta1");
        let (alpha, _) = served(containerrecreaterequests(), "v1alpha1");
        let policy = "/spec/properties/strategy/properties/failurePolicy/enum";
        assert_eq!(beta.pointer(policy).unwrap(), &json!(["Fail", "Ignore"]));
        assert_eq!(alpha.pointer(policy), None);
        assert_eq!(beta["spec"]["properties"]["activeDeadlineSeconds"]["minimum"], 0.0);
        assert_eq!(alpha["spec"]["properties"]["activeDeadlineSeconds"].get("minimum"), None);
        assert!(beta["status"]["properties"].get("containerStatusSnapshot").is_some());
        assert!(alpha["status"]["properties"].get("containerStatusSnapshot").is_none());
        assert_eq!(manifest["spec"]["conversion"]["strategy"], "Webhook");
        assert_eq!(manifest["spec"]["names"]["shortNames"], json!(["crr"]));
    }

    #[test]
    fn broadcast_jobs_require_nothing_but_a_template_that_the_schema_leaves_alone() {
        for version in ["v1beta1", "v1alpha1"] {
            let (schema, manifest) = served(broadcastjobs(), version);
            assert_eq!(schema["spec"]["required"], json!(["template"]));
            let template = &schema["spec"]["properties"]["template"];
            assert_eq!(template["x-kubernetes-preserve-unknown-fields"], true);
            assert!(template.get("properties").is_none());
            assert_eq!(schema["spec"]["properties"]["parallelism"]["x-kubernetes-int-or-string"], true);
            assert_eq!(schema["status"].get("required"), None);
            assert_eq!(manifest["spec"].get("conversion"), None);
            assert_eq!(manifest["spec"]["names"]["shortNames"], json!(["bcj"]));
        }
        let columns = "Desired Active Succeeded Failed AGE";
        assert_eq!(
            columns_of(broadcastjobs()),
            [format!("v1beta1 {columns}"), format!("v1alpha1 {columns}")]
        );
    }
}
