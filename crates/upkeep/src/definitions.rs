//! The definitions of this build as they are applied, printed and compared.

use anyhow::Context as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, ServiceReference, WebhookClientConfig,
};
use serde_json::Value;

use crate::installation::Installation;

/// The field manager of applied definitions.
pub const FIELD_MANAGER: &str = "kruise-manager-crds";

/// What is applied over `live`. Where it converts by a webhook already, it goes on asking there: whom to trust is the
/// manager's to say, so the bundle is never part of it.
pub fn applied(
    ours: &CustomResourceDefinition,
    live: Option<&CustomResourceDefinition>,
    installation: &Installation,
) -> CustomResourceDefinition {
    let mut applied = ours.clone();
    applied.status = None;
    let webhook = applied.spec.conversion.as_mut().and_then(|conversion| conversion.webhook.as_mut());
    if let Some(webhook) = webhook {
        let known = live.and_then(|live| {
            let conversion = live.spec.conversion.as_ref().filter(|it| it.strategy == "Webhook")?;
            conversion.webhook.as_ref()?.client_config.clone()
        });
        let known = known.filter(|known| known.service.is_some() || known.url.is_some());
        webhook.client_config = Some(match known {
            Some(known) => WebhookClientConfig { ca_bundle: None, ..known },
            None => WebhookClientConfig {
                service: Some(ServiceReference {
                    name: installation.service.clone(),
                    namespace: installation.namespace.clone(),
                    path: Some(kruise_api::crd::CONVERSION_PATH.to_owned()),
                    port: Some(443),
                }),
                ..WebhookClientConfig::default()
            },
        });
    }
    applied
}

/// Whether the webhook clause of the live definition is in the way of one that has none.
pub fn has_clause_to_drop(ours: &CustomResourceDefinition, live: &CustomResourceDefinition) -> bool {
    let by_webhook = |of: &CustomResourceDefinition| {
        of.spec.conversion.as_ref().is_some_and(|conversion| conversion.strategy == "Webhook")
    };
    by_webhook(live) && !by_webhook(ours)
}

/// All of them as YAML, as `kubectl apply --server-side -f -` takes it.
///
/// # Errors
/// A definition cannot be written.
pub fn printed(installation: &Installation) -> anyhow::Result<String> {
    let mut text = String::new();
    for ours in kruise_api::crd::all() {
        // Through a JSON value, whose keys are sorted.
        let value = serde_json::to_value(applied(&ours, None, installation))?;
        text.push_str("---\n");
        text.push_str(&serde_yaml_ng::to_string(&value).context("cannot write a definition")?);
    }
    Ok(text)
}

/// How two specs differ, a line for each place; at most `limit` lines.
pub fn differences(before: &Value, after: &Value, limit: usize) -> Vec<String> {
    let patch = json_patch::diff(before, after);
    let mut lines: Vec<String> = patch
        .0
        .iter()
        .take(limit)
        .map(|operation| match operation {
            json_patch::PatchOperation::Add(it) => format!("+ {}", it.path),
            json_patch::PatchOperation::Remove(it) => format!("- {}", it.path),
            other => format!("~ {}", other.path()),
        })
        .collect();
    if patch.0.len() > limit {
        lines.push(format!("… and {} more places", patch.0.len() - limit));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn client(of: &CustomResourceDefinition) -> Value {
        let conversion = of.spec.conversion.clone().unwrap();
        serde_json::to_value(conversion.webhook.unwrap().client_config.unwrap()).unwrap()
    }

    #[test]
    fn a_new_definition_converts_at_the_installations_service() {
        let installation = Installation { namespace: "there".to_owned(), ..Installation::default() };
        let new = applied(&kruise_api::crd::clonesets(), None, &installation);
        let service =
            json!({"name": "kruise-webhook-service", "namespace": "there", "path": "/convert", "port": 443});
        assert_eq!(client(&new), json!({"service": service}));
        assert!(printed(&installation).unwrap().contains("namespace: there"));
    }

    #[test]
    fn a_live_definition_goes_on_converting_where_it_does_and_its_bundle_is_left_to_the_manager() {
        let mut live = kruise_api::crd::clonesets();
        let webhook = live.spec.conversion.as_mut().unwrap().webhook.as_mut().unwrap();
        let url = "https://10.0.0.5:9876/convert";
        webhook.client_config =
            Some(serde_json::from_value(json!({"url": url, "caBundle": "Q0E="})).unwrap());
        let new = applied(&kruise_api::crd::clonesets(), Some(&live), &Installation::default());
        assert_eq!(client(&new), json!({"url": url}));
    }

    #[test]
    fn a_webhook_clause_is_in_the_way_of_a_definition_without_one_only() {
        let (converted, relabelled) = (kruise_api::crd::clonesets(), kruise_api::crd::imagepulljobs());
        assert!(has_clause_to_drop(&relabelled, &converted));
        assert!(!has_clause_to_drop(&converted, &converted));
        assert!(!has_clause_to_drop(&converted, &relabelled));
    }

    #[test]
    fn differences_are_told_place_by_place_and_not_without_end() {
        let (before, after) =
            (json!({"a": 1, "b": 2, "c": {"d": 1}}), json!({"a": 2, "c": {"d": 1, "e": 2}}));
        assert_eq!(differences(&before, &after, 9), ["~ /a", "+ /c/e", "- /b"]);
        assert_eq!(differences(&before, &after, 1), ["~ /a", "… and 2 more places"]);
        assert!(differences(&before, &before, 9).is_empty());
    }
}
