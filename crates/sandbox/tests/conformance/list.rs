//! GET of collections: selectors, pages, resource versions.

use serde_json::json;

use crate::harness::{Answer, Call, Target};

const MAPS: &str = "/api/v1/namespaces/{ns}/configmaps";

cases! {
    a_list_holds_items_without_kind,
    label_selectors_choose,
    wrong_label_selectors_are_refused,
    field_selectors_choose,
    wrong_field_selectors_are_refused,
    pods_have_more_selectable_fields,
    limits_page_through,
    wrong_continue_tokens_are_refused,
    resource_versions_are_waited_for,
    wrong_resource_versions_are_refused,
    a_get_takes_a_resource_version,
    lists_across_namespaces_are_sorted_by_namespace,
}

async fn given(t: &Target) {
    for (name, labels) in [
        ("a", json!({"l": "x", "n": "1"})),
        ("b", json!({"l": "y"})),
        ("c", json!({"l": "x"})),
        ("d", json!({})),
    ] {
        t.given("/api/v1/namespaces/{ns}/secrets", json!({"metadata": {"name": name, "labels": labels}}))
            .await;
    }
}

const SECRETS: &str = "/api/v1/namespaces/{ns}/secrets";

fn names(answer: &Answer) -> String {
    let items = answer.json["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<&str> = items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect();
    format!("{} {} {}", answer.code, answer.json["kind"].as_str().unwrap_or_default(), names.join(" "))
}

async fn names_of(t: &Target, query: &str) {
    let answer = t.quiet(Call::new("GET", &format!("{SECRETS}?{query}"))).await;
    t.note(&format!("{query}: {}", names(&answer)));
}

async fn a_list_holds_items_without_kind(t: Target) {
    t.get(SECRETS).await;
    t.given(SECRETS, json!({"metadata": {"name": "a"}, "data": {"a": "eA=="}})).await;
    t.get(SECRETS).await;
    t.get("/api/v1/namespaces/no-such/secrets").await;
}

async fn label_selectors_choose(t: Target) {
    given(&t).await;
    for selector in [
        "l",
        "%21l",
        "l%3Dx",
        "l%3D%3Dx",
        "l%21%3Dx",
        "l+in+(x,y)",
        "l+notin+(x)",
        "l%3Dx,n%3D1",
        "l%3D",
        "l+in+()",
        "",
        "l+in+(x,+)",
        "n%3E0",
        "n%3C1",
    ] {
        names_of(&t, &format!("labelSelector={selector}")).await;
    }
}

async fn wrong_label_selectors_are_refused(t: Target) {
    for selector in [
        "l%3D%3D%3Dx",
        "l+in+x",
        "l+in+(x",
        "%2C",
        "l%3Dx%2C",
        "a+b",
        "-a%3Db",
        "l%3D-x",
        "l%3Ex",
        "(",
        "%21",
        "l%21",
    ] {
        t.get(&format!("{SECRETS}?labelSelector={selector}")).await;
    }
}

async fn field_selectors_choose(t: Target) {
    given(&t).await;
    for selector in [
        "metadata.name%3Da",
        "metadata.name%21%3Da",
        "metadata.name%3D%3Da",
        "metadata.namespace%3D{ns}",
        "metadata.namespace%3Dx",
        "type%3DOpaque",
        "metadata.name%3Da,metadata.name%3Db",
        "",
    ] {
        names_of(&t, &format!("fieldSelector={selector}")).await;
    }
    names_of(&t, "fieldSelector=metadata.name%21%3Da&labelSelector=l%3Dx").await;
}

async fn wrong_field_selectors_are_refused(t: Target) {
    for selector in
        ["spec.x%3Da", "a", "metadata.name%3Ea", "metadata.labels.x%3Dy", "%3Da", "metadata.uid%3Da"]
    {
        t.get(&format!("{SECRETS}?fieldSelector={selector}")).await;
    }
    t.get("/api/v1/namespaces/{ns}/pods?fieldSelector=spec.x%3Da").await;
    t.get("/apis/apps/v1/namespaces/{ns}/deployments?fieldSelector=spec.replicas%3D1").await;
}

async fn pods_have_more_selectable_fields(t: Target) {
    t.until("/api/v1/namespaces/{ns}/serviceaccounts/default", "the default service account", |a| {
        a.code == 200
    })
    .await;
    let pods = "/api/v1/namespaces/{ns}/pods";
    t.given(pods, json!({"metadata": {"name": "a"}, "spec": {"automountServiceAccountToken": false, "schedulerName": "none", "containers": [{"name": "c", "image": "i"}]}}))
        .await;
    for selector in [
        "spec.nodeName%3D",
        "spec.nodeName%3Dx",
        "status.phase%3DPending",
        "status.phase%21%3DPending",
        "spec.restartPolicy%3DAlways",
        "spec.schedulerName%3Dnone",
        "spec.serviceAccountName%3Ddefault",
        "spec.hostNetwork%3Dfalse",
        "status.podIP%3D",
        "status.nominatedNodeName%3D",
    ] {
        let answer = t.quiet(Call::new("GET", &format!("{pods}?fieldSelector={selector}"))).await;
        t.note(&format!("{selector}: {}", names(&answer)));
    }
    let answer = t
        .quiet(Call::new(
            "GET",
            "/api/v1/namespaces?fieldSelector=metadata.name%3D{ns},status.phase%3DActive",
        ))
        .await;
    t.note(&names(&answer));
}

async fn limits_page_through(t: Target) {
    given(&t).await;
    let first = t.get(&format!("{SECRETS}?limit=2")).await;
    let token = first.json["metadata"]["continue"].as_str().unwrap().to_owned();
    // What is written between two pages is not in the second one.
    t.given(SECRETS, json!({"metadata": {"name": "bb"}})).await;
    t.given(SECRETS, json!({"metadata": {"name": "e"}})).await;
    let second = t.quiet(Call::new("GET", &format!("{SECRETS}?limit=2&continue={token}"))).await;
    t.note(&names(&second));
    t.note(&format!(
        "{} {}",
        second.json["metadata"]["continue"], second.json["metadata"]["remainingItemCount"]
    ));
    assert_eq!(second.version(), first.version());
    let one = t.quiet(Call::new("GET", &format!("{SECRETS}?limit=1&continue={token}"))).await;
    t.note(&format!("{} remaining {}", names(&one), one.json["metadata"]["remainingItemCount"]));
    let chosen = t.quiet(Call::new("GET", &format!("{SECRETS}?limit=1&labelSelector=l%3Dx"))).await;
    t.note(&format!(
        "{} remaining {} {}",
        names(&chosen),
        chosen.json["metadata"]["remainingItemCount"],
        chosen.json["metadata"]["continue"].is_string()
    ));
    let all = t.quiet(Call::new("GET", &format!("{SECRETS}?limit=500"))).await;
    t.note(&format!("{} {}", names(&all), all.json["metadata"]["continue"]));
    t.get(&format!("{SECRETS}?limit=2&continue={token}&resourceVersion=5")).await;
    let zero = t.quiet(Call::new("GET", &format!("{SECRETS}?limit=2&resourceVersion=0"))).await;
    assert_eq!(zero.code, 200);
}

async fn wrong_continue_tokens_are_refused(t: Target) {
    for query in [
        "continue=bad",
        "continue=e30",
        "limit=-1",
        "limit=x",
        "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhXHUwMDAwIn0",
    ] {
        t.get(&format!("{SECRETS}?{query}")).await;
    }
}

async fn resource_versions_are_waited_for(t: Target) {
    given(&t).await;
    let list = t.quiet(Call::new("GET", SECRETS)).await;
    let version = list.version();
    t.given(SECRETS, json!({"metadata": {"name": "e"}})).await;
    // Lists that may be newer are answered from a cache, which may not know the object yet.
    let has_it = |answer: &Answer| names(answer).ends_with(" e");
    t.until(&format!("{SECRETS}?resourceVersion=0"), "the cache has it", has_it).await;
    for (about, query) in [
        ("at least", format!("resourceVersion={version}")),
        ("not older", format!("resourceVersion={version}&resourceVersionMatch=NotOlderThan")),
        ("exact", format!("resourceVersion={version}&resourceVersionMatch=Exact")),
        ("exact page", format!("resourceVersion={version}&resourceVersionMatch=Exact&limit=3")),
        ("page", format!("resourceVersion={version}&limit=3")),
    ] {
        let answer = t.quiet(Call::new("GET", &format!("{SECRETS}?{query}"))).await;
        t.note(&format!("{about}: {} at the version: {}", names(&answer), answer.version() == version));
    }
}

async fn wrong_resource_versions_are_refused(t: Target) {
    for query in [
        "resourceVersion=bad",
        "resourceVersion=-1",
        "resourceVersionMatch=Exact",
        "resourceVersion=0&resourceVersionMatch=Exact",
        "resourceVersion=5&resourceVersionMatch=Sometimes",
        "resourceVersion=1&resourceVersionMatch=Exact&continue=x",
        "resourceVersion=99999999999",
        "resourceVersion=99999999999&resourceVersionMatch=NotOlderThan",
        "resourceVersion=99999999999&resourceVersionMatch=Exact",
    ] {
        t.get(&format!("{SECRETS}?{query}")).await;
    }
}

async fn a_get_takes_a_resource_version(t: Target) {
    // These are answered from a cache, which may not know the object yet.
    let version = t.given(MAPS, json!({"metadata": {"name": "a"}})).await.version();
    t.until(&format!("{MAPS}/a?resourceVersion={version}"), "the cache has it", |a| a.code == 200).await;
    t.get(&format!("{MAPS}/a?resourceVersion=0")).await;
    t.get(&format!("{MAPS}/a?resourceVersion=1")).await;
    t.get(&format!("{MAPS}/a?resourceVersion=bad")).await;
    t.get(&format!("{MAPS}/a?resourceVersion=99999999999")).await;
}

async fn lists_across_namespaces_are_sorted_by_namespace(t: Target) {
    t.given("/api/v1/namespaces", json!({"metadata": {"name": "{ns}-b"}})).await;
    t.leaves("/api/v1/namespaces/{ns}-b");
    for (ns, name) in [("{ns}-b", "a"), ("{ns}", "z"), ("{ns}", "y")] {
        t.given(
            &format!("/api/v1/namespaces/{ns}/secrets"),
            json!({"metadata": {"name": name, "labels": {"all": "{ns}"}}}),
        )
        .await;
    }
    let answer = t.quiet(Call::new("GET", "/api/v1/secrets?labelSelector=all%3D{ns}")).await;
    t.note(&names(&answer));
    let answer = t
        .quiet(Call::new(
            "GET",
            "/api/v1/secrets?labelSelector=all%3D{ns}&fieldSelector=metadata.namespace%3D{ns}",
        ))
        .await;
    t.note(&names(&answer));
}
