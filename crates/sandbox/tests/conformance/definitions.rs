//! Versions of a custom resource that know different fields, and definitions that change under stored objects.

use serde_json::{Value, json};

use crate::custom::{A, CRDS, WIDGETS, define, definition, widget};
use crate::harness::{Answer, Call, JSON_PATCH, MERGE, Target};

cases! {
    versions_show_what_they_know,
    a_changed_schema_shows_in_what_is_stored,
    a_changed_definition_ends_watches,
}

/// The fields of the spec in a version's schema.
fn fields(definition: &mut Value, version: usize) -> &mut serde_json::Map<String, Value> {
    definition["spec"]["versions"][version]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        .as_object_mut()
        .unwrap()
}

/// A definition whose versions may differ: with one schema for all of them alone do API servers take selectable fields that
/// all of them have.
fn of_several_schemas() -> Value {
    let mut made = definition();
    for version in made["spec"]["versions"].as_array_mut().unwrap() {
        version.as_object_mut().unwrap().remove("selectableFields");
    }
    made
}

async fn versions_show_what_they_know(t: Target) {
    let mut made = of_several_schemas();
    fields(&mut made, 1).remove("note");
    fields(&mut made, 1).insert("extra".into(), json!({"type": "string", "default": "e"}));
    define(&t, made).await;
    let beta = "/apis/{group}/v1beta1/namespaces/{ns}/widgets";
    let specs = async |calls: Vec<Call>| {
        for call in calls {
            let answer = t.quiet(call).await;
            t.note(&format!("{} {} {}", answer.code, answer.json["apiVersion"], answer.json["spec"]));
        }
    };
    t.given(WIDGETS, widget(json!({"note": "n"}))).await;
    let one = format!("{beta}/a");
    let list = t.quiet(Call::new("GET", beta)).await;
    t.note(&format!("listed {}", list.json["items"][0]["spec"]));
    let patch = r#"{"spec":{"size":"L"}}"#;
    specs(vec![
        Call::new("GET", &one),
        Call::new("PATCH", &format!("{one}?dryRun=All")).body(MERGE, patch),
        Call::new("GET", A),
        // Through a version that does not know the note it is lost.
        Call::new("PATCH", &one).body(MERGE, patch),
        Call::new("GET", A),
    ])
    .await;
    let other = json!({"apiVersion": "{group}/v1beta1", "kind": "Widget", "metadata": {"name": "b"}, "spec": {"extra": "x"}});
    specs(vec![Call::new("POST", beta).json(&other), Call::new("GET", &format!("{WIDGETS}/b"))]).await;
}

async fn a_changed_schema_shows_in_what_is_stored(t: Target) {
    define(&t, of_several_schemas()).await;
    let made = t.given(WIDGETS, widget(json!({"note": "n"}))).await;
    let path = format!("{CRDS}/widgets.{{group}}");
    let fields = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let change = async |patch: Value| {
        let answer = t.quiet(Call::new("PATCH", &path).body(JSON_PATCH, &patch.to_string())).await;
        assert_eq!(answer.code, 200, "{}", answer.text);
    };
    let show = async |answer: Answer| {
        let same = if answer.version() == made.version() { "same version" } else { "another version" };
        let listed = t.quiet(Call::new("GET", WIDGETS)).await;
        t.note(&format!("{same} {} listed {}", answer.json["spec"], listed.json["items"][0]["spec"]));
    };
    change(json!([
        {"op": "remove", "path": format!("{fields}/note")},
        {"op": "add", "path": format!("{fields}/color"), "value": {"type": "string", "default": "red"}},
    ]))
    .await;
    show(t.until(A, "the new default is shown", |a| a.json["spec"]["color"] == "red").await).await;
    // It was never lost.
    change(
        json!([{"op": "add", "path": format!("{fields}/note"), "value": {"type": "string", "nullable": true}}]),
    )
    .await;
    show(t.until(A, "the note is shown again", |a| a.json["spec"]["note"] == "n").await).await;
}

async fn a_changed_definition_ends_watches(t: Target) {
    define(&t, definition()).await;
    let path = format!("{CRDS}/widgets.{{group}}");
    let change = async |patch: &str| {
        let answer = t.quiet(Call::new("PATCH", &path).body(MERGE, patch)).await;
        assert_eq!(answer.code, 200, "{}", answer.text);
    };
    let version = t.quiet(Call::new("GET", WIDGETS)).await.version();
    let mut watch = t.watch(&format!("{WIDGETS}?watch=true&resourceVersion={version}")).await;
    change(r#"{"metadata":{"labels":{"l":"1"}}}"#).await;
    t.given(WIDGETS, widget(json!({}))).await;
    let event = watch.unwritten().await.unwrap();
    t.note(&format!("{} {}", event["type"], event["object"]["metadata"]["name"]));
    change(r#"{"spec":{"names":{"categories":["all","clothes"]}}}"#).await;
    watch.next().await;
}
