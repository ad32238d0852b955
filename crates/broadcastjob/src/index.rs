//! Which jobs a change of a node concerns, without asking all of them: the unfinished jobs, and the nodes of their pods.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kruise_api::broadcastjob::{BroadcastJobStatus, COMPLETE, FAILED, KIND};
use kruise_common::key::ObjectKey;
use kruise_common::placement::Placement;
use kruise_common::pod::PodView;
use kruise_runtime::nodes::NodeView;
use kruise_runtime::store::Change;

use crate::stores::JobView;

/// Follows jobs, pods and nodes.
#[derive(Debug, Default)]
pub struct Index {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Where pods of the unfinished jobs may run; `None` if the template cannot be read.
    jobs: HashMap<ObjectKey, Option<Arc<Placement>>>,
    /// How many pods of which job are on a node, or for it.
    pods: HashMap<Arc<str>, HashMap<ObjectKey, usize>>,
}

impl Index {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a change of a job.
    pub fn job_changed(&self, change: &Change<JobView>) {
        let Some(job) = &change.new else {
            if let Some(gone) = &change.old {
                self.inner().jobs.remove(&gone.key);
            }
            return;
        };
        let template = &job.object.spec.template;
        let same = change.old.as_ref().is_some_and(|old| old.object.spec.template == *template);
        let policy = job.object.spec.completion_policy.as_ref().and_then(|policy| policy.type_.as_deref());
        let ended = |status: &BroadcastJobStatus| {
            status.is(FAILED) || (status.is(COMPLETE) && policy != Some("Never"))
        };
        let over = job.object.status.as_ref().is_some_and(ended);
        if over || job.object.metadata.deletion_timestamp.is_some() {
            self.inner().jobs.remove(&job.key);
        } else if !same || !self.inner().jobs.contains_key(&job.key) {
            let placement = Placement::of_template(&template.read()).ok().map(Arc::new);
            self.inner().jobs.insert(job.key.clone(), placement);
        }
    }

    /// Takes in a change of a pod, and tells the job it belongs to.
    pub fn pod_changed(&self, change: &Change<PodView>) -> Option<ObjectKey> {
        let before = change.old.as_deref().and_then(|pod| Some((owner(pod)?, pod.node_or_pin().cloned())));
        let after = change.new.as_deref().and_then(|pod| Some((owner(pod)?, pod.node_or_pin().cloned())));
        if before != after {
            let mut inner = self.inner();
            if let Some((job, Some(node))) = &before {
                inner.count(node, job, false);
            }
            if let Some((job, Some(node))) = &after {
                inner.count(node, job, true);
            }
        }
        after.or(before).map(|(job, _)| job)
    }

    /// The jobs that a change of a node concerns: those with a pod on it, and those for which it is or was a node to run
    /// on, if that is not what it was before.
    pub fn node_changed(&self, change: &Change<NodeView>) -> Vec<ObjectKey> {
        let (old, new) = (change.old.as_deref(), change.new.as_deref());
        let Some(name) = new.or(old).map(|node| Arc::clone(node.name())) else { return Vec::new() };
        if let (Some(old), Some(new)) = (old, new)
            && old.facts == new.facts
        {
            return Vec::new();
        }
        let inner = self.inner();
        let here = inner.pods.get(&name);
        let concerned = |(job, placement): (&ObjectKey, &Option<Arc<Placement>>)| {
            let fits = |node: Option<&NodeView>| {
                node.zip(placement.as_deref())
                    .is_some_and(|(node, placement)| placement.fits(&name, &node.facts))
            };
            let has_pod = here.is_some_and(|here| here.contains_key(job));
            (has_pod || fits(old) != fits(new)).then(|| job.clone())
        };
        inner.jobs.iter().filter_map(concerned).collect()
    }
}

impl Inner {
    fn count(&mut self, node: &Arc<str>, job: &ObjectKey, more: bool) {
        let here = self.pods.entry(Arc::clone(node)).or_default();
        let count = here.entry(job.clone()).or_default();
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            here.remove(job);
        }
        if here.is_empty() {
            self.pods.remove(node);
        }
    }
}

/// The job that controls a pod, whatever version its reference names.
fn owner(pod: &PodView) -> Option<ObjectKey> {
    let owner = pod.controller()?;
    let ours = &*owner.kind == KIND && &*owner.group == "apps.kruise.io";
    ours.then(|| ObjectKey::new(Arc::clone(&pod.key.namespace), Arc::clone(&owner.name)))
}

#[cfg(test)]
mod tests {
    use kruise_common::pod_wire::PodWire;
    use kruise_runtime::nodes::NodeWire;
    use serde_json::{Value, json};

    use super::*;

    fn job(name: &str, spec: Value, status: Value) -> Arc<JobView> {
        let object = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "BroadcastJob",
            "metadata": {"name": name, "namespace": "ops", "uid": name, "resourceVersion": "1"},
            "spec": {"template": {"spec": spec}}, "status": status});
        Arc::new(JobView::of(serde_json::from_value(object).unwrap()).unwrap())
    }

    fn node(spec: Value) -> Arc<NodeView> {
        let wire = json!({"metadata": {"name": "n1", "uid": "n1", "resourceVersion": "1"}, "spec": spec,
            "status": {"allocatable": {"pods": "1"}}});
        Arc::new(NodeView::of(serde_json::from_value::<NodeWire>(wire).unwrap()).unwrap())
    }

    fn pod(job: &str, node: &str) -> Arc<PodView> {
        let pod = json!({"metadata": {"name": "p", "namespace": "ops", "uid": "p", "resourceVersion": "1",
            "ownerReferences": [{"apiVersion": "apps.kruise.io/v1alpha1", "kind": "BroadcastJob", "name": job,
                "uid": job, "controller": true}]}, "spec": {"nodeName": node}});
        Arc::new(PodView::from(serde_json::from_value::<PodWire>(pod).unwrap()))
    }

    fn index(jobs: &[Arc<JobView>]) -> Index {
        let index = Index::default();
        for job in jobs {
            index.job_changed(&Change { old: None, new: Some(Arc::clone(job)) });
        }
        index
    }

    fn names(found: Vec<ObjectKey>) -> Vec<String> {
        let mut names: Vec<_> = found.iter().map(|key| key.name.to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_node_that_comes_goes_or_is_cordoned_wakes_the_jobs_it_is_for() {
        let tolerant = json!({"tolerations": [{"operator": "Exists"}]});
        let elsewhere = json!({"nodeSelector": {"zone": "b"}});
        let index = index(&[
            job("any", json!({}), Value::Null),
            job("tolerant", tolerant, Value::Null),
            job("elsewhere", elsewhere, Value::Null),
        ]);
        let (plain, cordoned) = (node(json!({})), node(json!({"unschedulable": true})));
        let woken = |old: Option<&Arc<NodeView>>, new: Option<&Arc<NodeView>>| {
            names(index.node_changed(&Change { old: old.cloned(), new: new.cloned() }))
        };
        assert_eq!(woken(None, Some(&plain)), ["any", "tolerant"]);
        assert_eq!(woken(Some(&plain), None), ["any", "tolerant"], "a job that waits for the node goes on");
        assert_eq!(woken(Some(&plain), Some(&cordoned)), ["any"]);
        assert_eq!(woken(Some(&plain), Some(&plain)), Vec::<String>::new(), "a heartbeat");
    }

    #[test]
    fn a_job_with_a_pod_on_the_node_is_woken_whatever_its_template_says_now() {
        let index = index(&[job("elsewhere", json!({"nodeSelector": {"zone": "b"}}), Value::Null)]);
        let (plain, cordoned) = (node(json!({})), node(json!({"unschedulable": true})));
        let change = Change { old: Some(plain), new: Some(cordoned) };
        assert!(index.node_changed(&change).is_empty());
        let pod = pod("elsewhere", "n1");
        let owner = index.pod_changed(&Change { old: None, new: Some(Arc::clone(&pod)) });
        assert_eq!(owner, Some(ObjectKey::new("ops", "elsewhere")));
        assert_eq!(names(index.node_changed(&change)), ["elsewhere"]);
        index.pod_changed(&Change { old: Some(pod), new: None });
        assert!(index.node_changed(&change).is_empty());
        assert!(index.inner().pods.is_empty());
    }

    #[test]
    fn finished_jobs_cost_nothing_when_nodes_change() {
        let over = json!({"conditions": [{"type": "Complete", "status": "True"}]});
        let index = index(&[job("over", json!({}), over), job("open", json!({}), Value::Null)]);
        assert_eq!(names(index.node_changed(&Change { old: None, new: Some(node(json!({}))) })), ["open"]);
        assert_eq!(index.inner().jobs.len(), 1);
    }
}
