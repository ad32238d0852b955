//! Rules for the images and nodes of image pull jobs, for whoever takes such a spec.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use crate::image_ref::ImageRef;
use crate::selector::Selector;

const MAX_IMAGES_OF_LIST: usize = 255;

/// What is wrong, and with which field of the spec.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// The field.
    pub field: &'static str,
    /// Why.
    pub message: String,
}

fn fault(field: &'static str, message: impl Into<String>) -> Fault {
    Fault { field, message: message.into() }
}

/// What is wrong with the nodes a spec asks for.
pub fn of_selectors(spec: &Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    let get = |key: &str| spec.get(key).filter(|value| !value.is_null());
    let (nodes, pods) = (get("selector"), get("podSelector"));
    if let Some(selector) = nodes {
        let filled = |key: &str| {
            selector.get(key).is_some_and(|value| {
                value.as_array().is_some_and(|list| !list.is_empty())
                    || value.as_object().is_some_and(|map| !map.is_empty())
            })
        };
        let names = selector.get("names").and_then(Value::as_array);
        if names.is_some() && (filled("matchLabels") || filled("matchExpressions")) {
            let message = "can not set both names and labelSelector in this spec.selector";
            faults.push(fault("selector", message));
        }
        let mut seen = BTreeSet::new();
        if names.into_iter().flatten().filter_map(Value::as_str).any(|name| !seen.insert(name)) {
            faults.push(fault("selector", "duplicated name in selector names"));
        }
        faults.extend(of_selector(selector, "selector"));
    }
    faults.extend(pods.and_then(|selector| of_selector(selector, "podSelector")));
    if nodes.is_some() && pods.is_some() {
        faults.push(fault("podSelector", "can not set both selector and podSelector"));
    }
    faults
}

fn of_selector(selector: &Value, field: &'static str) -> Option<Fault> {
    let parsed = serde_json::from_value::<LabelSelector>(selector.clone())
        .map_err(|error| error.to_string())
        .and_then(|selector| Selector::parse(&selector));
    parsed.err().map(|error| fault(field, format!("invalid {field}: {error}")))
}

/// What is wrong with one image.
pub fn of_image(image: &str) -> Option<String> {
    ImageRef::parse(image).err().map(|error| format!("invalid image {image}: {error}"))
}

/// What is wrong with the images of a list.
pub fn of_images(spec: &Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    let images = spec.get("images").and_then(Value::as_array);
    let images: Vec<_> = images.into_iter().flatten().filter_map(Value::as_str).collect();
    if images.is_empty() || images.contains(&"") {
        faults.push(fault("images", "image can not be empty"));
    }
    if images.len() > MAX_IMAGES_OF_LIST {
        let message = format!("the maximum number of images cannot > {MAX_IMAGES_OF_LIST}");
        faults.push(fault("images", message));
    }
    if images.iter().collect::<BTreeSet<_>>().len() < images.len() {
        faults.push(fault("images", "images cannot have duplicate values"));
    }
    let named = images.into_iter().filter(|image| !image.is_empty());
    faults.extend(named.filter_map(of_image).map(|message| fault("images", message)));
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn messages(faults: Vec<Fault>) -> Vec<String> {
        faults.into_iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect()
    }

    #[test]
    fn nodes_are_chosen_in_one_way() {
        for (spec, expected) in [
            (json!({}), vec![]),
            (json!({"selector": {"names": ["a", "b"]}}), vec![]),
            (json!({"selector": null, "podSelector": {"matchLabels": {"a": "b"}}}), vec![]),
            (json!({"selector": {"names": ["a", "a"]}}), vec!["selector: duplicated name in selector names"]),
            (
                json!({"selector": {"names": [], "matchLabels": {"a": "b"}}}),
                vec!["selector: can not set both names and labelSelector in this spec.selector"],
            ),
            (
                json!({"selector": {}, "podSelector": {}}),
                vec!["podSelector: can not set both selector and podSelector"],
            ),
        ] {
            assert_eq!(messages(of_selectors(&spec)), expected, "{spec}");
        }
        let bad = json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}});
        assert!(messages(of_selectors(&bad))[0].starts_with("podSelector: invalid podSelector: "));
    }

    #[test]
    fn a_list_has_images_and_none_of_them_twice() {
        let many: Vec<_> = (0..256).map(|at| format!("a:{at}")).collect();
        for (spec, expected) in [
            (json!({"images": ["a:1", "b:1"]}), vec![]),
            (json!({}), vec!["images: image can not be empty"]),
            (json!({"images": ["a", "a"]}), vec!["images: images cannot have duplicate values"]),
            (json!({"images": many}), vec!["images: the maximum number of images cannot > 255"]),
            (json!({"images": ["::bad"]}), vec!["images: invalid image ::bad: invalid tag format"]),
        ] {
            assert_eq!(messages(of_images(&spec)), expected);
        }
    }
}
