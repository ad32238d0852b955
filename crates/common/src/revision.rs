//! Revisions of a pod template: their bytes, names and equality, and which one a workload is at.

mod canonical;
mod hash;
mod known;
pub(crate) mod quantity;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kruise_api::keys;
use kruise_api::raw::RawJson;
use serde::Deserialize;
use serde_json::Value;

pub(crate) use canonical::same;
pub use canonical::{
    canonical, canonical_bytes, canonical_template, data_of, same_template, template_of, vct_hash, write_text,
};
pub use hash::{fnv1, fnv1a_of_printed, hash};
pub use wire::RevisionWire;

use crate::key::{ObjectKey, Uid};
use crate::texts::Texts;

/// How much of the parent's name a revision's name keeps, in bytes.
const PARENT_LIMIT: usize = 223;

/// Name of a revision: `<parent>-<hash>`, the parent cut to 223 bytes.
pub fn name(parent: &str, hash: &str) -> String {
    let mut end = parent.len().min(PARENT_LIMIT);
    while !parent.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{hash}", parent.get(..end).unwrap_or_default())
}

/// The part after the last `-`; a text without one is its own short form.
pub fn short_hash(revision: &str) -> &str {
    revision.rsplit('-').next().unwrap_or(revision)
}

/// True if both name one revision, be it by full name or by hash alone.
pub fn same_revision(a: &str, b: &str) -> bool {
    a == b || short_hash(a) == short_hash(b)
}

/// One stored ControllerRevision, with the template it holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Identity.
    pub uid: Uid,
    /// Opaque version, for preconditions.
    pub resource_version: Arc<str>,
    /// `revision`: the highest is the newest.
    pub number: i64,
    /// The pod template as it is stored, patch directive included: [`Self::template`] reads it.
    pub template: RawJson,
    /// When it was stored.
    pub created: Option<Timestamp>,
    /// UID of the controlling owner.
    pub controller: Option<Uid>,
    /// All labels.
    pub labels: Texts,
    /// Annotations of Kruise. A revision has those of its workload besides, which nothing reads.
    pub annotations: Texts,
}

impl Revision {
    /// The view of a stored revision; `None` if it holds no pod template.
    pub fn of(stored: RevisionWire) -> Option<Self> {
        let metadata = stored.metadata;
        let data: Data = stored.data.read_as().ok()?;
        let template = data.spec.template;
        if !template.text().starts_with('{') {
            return None;
        }
        let mut owners = metadata.owner_references.iter().flatten();
        let controller = owners.find(|owner| owner.controller == Some(true));
        Some(Self {
            key: ObjectKey::new(
                metadata.namespace.as_deref().unwrap_or_default(),
                metadata.name.as_deref().unwrap_or_default(),
            ),
            uid: Uid::from(metadata.uid.as_deref().unwrap_or_default()),
            resource_version: metadata.resource_version.as_deref().unwrap_or_default().into(),
            number: stored.revision,
            template,
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            controller: controller.map(|owner| Uid::from(owner.uid.as_str())),
            labels: texts(metadata.labels, |_| true),
            annotations: texts(metadata.annotations, |key| key.contains("kruise.io/")),
        })
    }

    /// The pod template, without the patch directive.
    pub fn template(&self) -> Value {
        let mut template = self.template.read();
        if let Some(map) = template.as_object_mut() {
            map.remove("$patch");
        }
        template
    }

    /// Name of the revision.
    pub fn name(&self) -> &str {
        &self.key.name
    }

    /// True if it holds this template, given in canonical form.
    ///
    /// Of a revision that others wrote, fields are not expected which their types did not know: leaving them out was
    /// no choice. A revision that has one of them was written by someone who knew.
    fn holds(&self, live: &Value) -> bool {
        let stored = canonical_template(&self.template());
        if same(Some(&stored), Some(live), "") {
            return true;
        }
        if self.annotations.contains_key(keys::REVISION_WRITER) {
            return false;
        }
        let known = |template: &Value| known::as_of_1_32(template).map(|known| canonical_template(&known));
        known(&stored).is_some_and(|known| same(Some(&known), Some(&stored), ""))
            && known(live).is_some_and(|known| same(Some(&stored), Some(&known), ""))
    }
}

/// A revision's data, as far as it is read.
#[derive(Deserialize)]
struct Data {
    spec: DataSpec,
}

#[derive(Deserialize)]
struct DataSpec {
    template: RawJson,
}

fn texts(map: Option<BTreeMap<String, String>>, is_kept: fn(&str) -> bool) -> Texts {
    let kept = map.into_iter().flatten().filter(|(key, _)| is_kept(key));
    kept.map(|(key, value)| (key.into(), value.into())).collect()
}

/// Whom stores file the revisions of a namespace under that nobody controls. No object has such a uid.
pub fn orphans_of(namespace: &str) -> Uid {
    Uid::from(format!("orphans in {namespace}"))
}

/// Orders revisions oldest first: by number, creation time, name.
pub fn sort(revisions: &mut [Arc<Revision>]) {
    revisions.sort_by(|a, b| (a.number, a.created, &a.key.name).cmp(&(b.number, b.created, &b.key.name)));
}

/// What has to happen so that the live template is the newest revision.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The newest revision holds this template already.
    Use(Arc<Revision>),
    /// An older revision holds it: make that one the newest again.
    Raise {
        /// The revision to raise.
        revision: Arc<Revision>,
        /// Its new number.
        to: i64,
    },
    /// No revision holds it. If the name is taken by other content, decide again with the next collision count.
    Create {
        /// Name of the new revision.
        name: String,
        /// Its hash, for the label.
        hash: String,
        /// Its number.
        number: i64,
        /// Its data, in the reference's form.
        data: Value,
    },
}

/// Finds the update revision among `sorted` ones, newest equal one first.
pub fn decide(sorted: &[Arc<Revision>], template: &Value, parent: &str, collision_count: i32) -> Decision {
    let live = canonical_template(template);
    let highest = sorted.last().map_or(0, |last| last.number);
    for (age, revision) in sorted.iter().rev().enumerate() {
        if revision.holds(&live) {
            let revision = Arc::clone(revision);
            return if age == 0 {
                Decision::Use(revision)
            } else {
                Decision::Raise { revision, to: highest + 1 }
            };
        }
    }
    let data = canonical(&data_of(template));
    let hash = hash(&canonical_bytes(&data), collision_count);
    Decision::Create { name: name(parent, &hash), hash, number: highest + 1, data }
}

/// The revision pods are still allowed to be at: the one the status names, else the update revision.
pub fn current(
    sorted: &[Arc<Revision>],
    status_current: Option<&str>,
    update: &Arc<Revision>,
) -> Arc<Revision> {
    let named = status_current.and_then(|name| sorted.iter().find(|revision| revision.name() == name));
    Arc::clone(named.unwrap_or(update))
}

/// The oldest revisions that nothing uses, as many as exceed the history limit.
pub fn to_delete(
    sorted: &[Arc<Revision>],
    live: &dyn Fn(&Revision) -> bool,
    limit: usize,
) -> Vec<Arc<Revision>> {
    let mut unused: Vec<_> = sorted.iter().filter(|revision| !live(revision)).map(Arc::clone).collect();
    unused.truncate(unused.len().saturating_sub(limit));
    unused
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn revision(number: i64, image: &str) -> Arc<Revision> {
        let template = json!({"spec": {"containers": [{"name": "main", "image": image}]}});
        let data = data_of(&template);
        let stored: RevisionWire = serde_json::from_value(json!({
            "metadata": {"name": format!("web-{image}"), "namespace": "ns", "uid": format!("u{number}"),
                "ownerReferences": [{"apiVersion": "a/v1", "kind": "K", "name": "web", "uid": "o", "controller": true}]},
            "revision": number, "data": data,
        }))
        .unwrap();
        Arc::new(Revision::of(stored).unwrap())
    }

    fn template(image: &str) -> Value {
        json!({"spec": {"containers": [{"name": "main", "image": image, "resources": {}}]}})
    }

    #[test]
    fn a_name_keeps_223_bytes_of_the_parent_and_no_half_characters() {
        assert_eq!(name("web", "abc"), "web-abc");
        assert_eq!(name(&"a".repeat(300), "h").len(), 225);
        assert_eq!(name(&format!("{}é", "a".repeat(222)), "h"), format!("{}-h", "a".repeat(222)));
    }

    #[test]
    fn long_and_short_forms_name_one_revision() {
        assert!(same_revision("web-6c4", "6c4"));
        assert!(same_revision("web-6c4", "other-6c4"));
        assert!(!same_revision("web-6c4", "web-6c5"));
    }

    #[test]
    fn the_newest_equal_revision_is_used() {
        let sorted = [revision(1, "x:1"), revision(2, "x:2")];
        assert_eq!(decide(&sorted, &template("x:2"), "web", 0), Decision::Use(Arc::clone(&sorted[1])));
    }

    /// The revision as this implementation would have stored it.
    fn own(revision: &Arc<Revision>) -> Arc<Revision> {
        let mut own = Revision::clone(revision);
        own.annotations.insert(keys::REVISION_WRITER.into(), "1".into());
        Arc::new(own)
    }

    #[test]
    fn fields_newer_than_its_writer_are_not_missed_in_a_foreign_revision() {
        let foreign = revision(1, "x:1");
        for (place, value) in [
            ("/spec/hostnameOverride", json!("h")),
            ("/spec/containers/0/restartPolicyRules", json!([{"action": "Restart"}])),
            ("/spec/containers/0/lifecycle", json!({"stopSignal": "SIGUSR1"})),
            ("/spec/fromTheFuture", json!({"a": [1]})),
            ("/spec/containers/0/fromTheFuture", json!(true)),
            ("/metadata/fromTheFuture", json!("x")),
        ] {
            let mut live = template("x:1");
            live["metadata"] = json!({});
            let (parent, field) = place.rsplit_once('/').unwrap();
            live.pointer_mut(parent).unwrap()[field] = value.clone();
            let decided = decide(&[Arc::clone(&foreign)], &live, "web", 0);
            assert_eq!(decided, Decision::Use(Arc::clone(&foreign)), "{place}");
            // Our own revisions hold all fields, so one that lacks the field is another one.
            let decided = decide(&[own(&foreign)], &live, "web", 0);
            assert!(matches!(decided, Decision::Create { number: 2, .. }), "{place}");
        }
        for (place, value) in [
            ("/spec/hostname", json!("h")),
            ("/spec/containers/0/restartPolicy", json!("Always")),
            (
                "/spec/containers/0/resizePolicy",
                json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}]),
            ),
        ] {
            let mut live = template("x:1");
            let (parent, field) = place.rsplit_once('/').unwrap();
            live.pointer_mut(parent).unwrap()[field] = value;
            let decided = decide(&[Arc::clone(&foreign)], &live, "web", 0);
            assert!(matches!(decided, Decision::Create { .. }), "{place} was known");
        }
    }

    #[test]
    fn a_foreign_revision_that_has_a_newer_field_is_compared_by_it() {
        let with = |name: &str| {
            let mut template = template("x:1");
            template["spec"]["hostnameOverride"] = name.into();
            template
        };
        let mut stored = Revision::clone(&revision(1, "x:1"));
        stored.template = with("a").into();
        let stored = [Arc::new(stored)];
        assert!(matches!(decide(&stored, &with("a"), "web", 0), Decision::Use(_)));
        assert!(matches!(decide(&stored, &with("b"), "web", 0), Decision::Create { .. }));
    }

    #[test]
    fn projected_and_file_sources_of_later_versions_are_left_out_of_what_was_known() {
        let mut live = template("x:1");
        live["spec"]["volumes"] = json!([{"name": "v", "projected": {"sources": [{"podCertificate":
            {"signerName": "s", "keyType": "RSA"}}]}}]);
        live["spec"]["containers"][0]["env"] = json!([{"name": "E", "valueFrom": {"fileKeyRef":
            {"volumeName": "v", "path": "p", "key": "k"}}}]);
        let known = known::as_of_1_32(&live).unwrap();
        assert_eq!(known["spec"]["volumes"][0]["projected"]["sources"], json!([{}]));
        assert_eq!(known["spec"]["containers"][0]["env"][0]["valueFrom"], json!({}));
    }

    #[test]
    fn reverting_to_the_first_of_three_raises_it_to_four() {
        let sorted = [revision(1, "x:1"), revision(2, "x:2"), revision(3, "x:3")];
        let decision = decide(&sorted, &template("x:1"), "web", 0);
        assert_eq!(decision, Decision::Raise { revision: Arc::clone(&sorted[0]), to: 4 });
    }

    #[test]
    fn a_name_clash_yields_the_next_name() {
        let live = json!({"metadata": {"labels": {"app": "demo"}},
            "spec": {"containers": [{"name": "main", "image": "nginx:1.0"}]}});
        for (count, expected) in [(0, "web-6c4bf58578"), (1, "web-6c4bf58579")] {
            let Decision::Create { name, number, .. } = decide(&[], &live, "web", count) else {
                unreachable!()
            };
            assert_eq!((name.as_str(), number), (expected, 1));
        }
    }

    #[test]
    fn what_was_created_is_used_the_next_time() {
        let Decision::Create { data, .. } = decide(&[], &template("x:1"), "web", 0) else { unreachable!() };
        let mut stored = (*revision(1, "x:0")).clone();
        stored.template = template_of(&data).unwrap().into();
        assert!(matches!(decide(&[Arc::new(stored)], &template("x:1"), "web", 0), Decision::Use(_)));
    }

    #[test]
    fn the_current_revision_is_the_one_the_status_names() {
        let sorted = [revision(1, "x:1"), revision(2, "x:2")];
        assert_eq!(current(&sorted, Some("web-x:1"), &sorted[1]).number, 1);
        assert_eq!(current(&sorted, Some("gone"), &sorted[1]).number, 2);
        assert_eq!(current(&sorted, None, &sorted[1]).number, 2);
    }

    #[test]
    fn the_oldest_unused_revisions_beyond_the_limit_go() {
        let mut all: Vec<_> = (1..=5).rev().map(|n| revision(n, "x")).collect();
        sort(&mut all);
        let gone = to_delete(&all, &|revision| revision.number == 2 || revision.number == 5, 1);
        assert_eq!(gone.iter().map(|revision| revision.number).collect::<Vec<_>>(), [1, 3]);
        assert!(to_delete(&all, &|_| false, 10).is_empty());
    }
}
