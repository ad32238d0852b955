//! What the status says.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kruise_api::advancedcronjob::AdvancedCronJobStatus;

use crate::child::{Child, Kind, State};
use crate::observe::Observed;

/// The status after a round. `children` are those there are now. `stored` is what is published; its references are
/// kept as they are while they name the same children, so that what happens inside a child causes no write.
pub fn of(
    seen: &Observed,
    children: &[Child],
    stored: Option<&AdvancedCronJobStatus>,
) -> AdvancedCronJobStatus {
    let active: Vec<&Child> = children.iter().filter(|child| child.state == State::Active).collect();
    let listed = stored.and_then(|status| status.active.as_deref()).unwrap_or_default();
    let same = listed.len() == active.len()
        && active.iter().all(|child| listed.iter().any(|one| one.uid.as_deref() == Some(&child.uid.0)));
    let active: Vec<ObjectReference> = if same {
        listed.to_vec()
    } else {
        active.into_iter().map(|child| reference(child, seen.kind)).collect()
    };
    let ran = children.iter().filter_map(|child| child.scheduled).chain(seen.memory()).max();
    AdvancedCronJobStatus {
        type_: Some(seen.kind.name().to_owned()),
        active: (!active.is_empty()).then_some(active),
        last_schedule_time: ran.map(Time),
    }
}

fn reference(child: &Child, kind: Kind) -> ObjectReference {
    ObjectReference {
        api_version: Some(kind.api_version().to_owned()),
        kind: Some(kind.name().to_owned()),
        namespace: Some(child.key.namespace.to_string()),
        name: Some(child.key.name.to_string()),
        uid: Some(child.uid.to_string()),
        resource_version: Some(child.resource_version.to_string()),
        ..ObjectReference::default()
    }
}
