//! Every label, annotation, finalizer, condition and environment variable name, in one place.

/// Pod and PVC label: the five characters shared by a pod and its volume claims.
pub const INSTANCE_ID: &str = "apps.kruise.io/cloneset-instance-id";
/// Pod label: name of the pod's ControllerRevision, or only its hash with gate CloneSetShortHash.
pub const CONTROLLER_REVISION_HASH: &str = "controller-revision-hash";
/// Pod label: always the short revision hash.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// ControllerRevision and ImagePullJob label: the short revision hash.
pub const REVISION_HASH: &str = "controller.kubernetes.io/hash";
/// ControllerRevision annotation: hash of the volume claim templates, empty when there are none.
pub const VOLUME_CLAIM_TEMPLATE_HASH: &str = "kruise.io/cloneset-volumeclaimtemplate-hash";
/// Private ControllerRevision annotation: written by this implementation, which tells its revisions from older ones.
pub const REVISION_WRITER: &str = "apps.kruise.io/revision-writer";
/// Private ControllerRevision annotation: the volume claim templates that belong to the revision, as JSON.
pub const REVISION_VOLUME_CLAIM_TEMPLATES: &str = "apps.kruise.io/volume-claim-templates";

/// Pod label: lifecycle state; absent reads as Normal.
pub const LIFECYCLE_STATE: &str = "lifecycle.apps.kruise.io/state";
/// Pod annotation: RFC 3339 time of the last lifecycle change.
pub const LIFECYCLE_TIMESTAMP: &str = "lifecycle.apps.kruise.io/timestamp";
/// Pod label: its presence asks the workload to delete this pod, within its budgets.
pub const SPECIFIED_DELETE: &str = "apps.kruise.io/specified-delete";

/// Pod annotation: JSON record of the running or last in-place update.
pub const INPLACE_STATE: &str = "apps.kruise.io/inplace-update-state";
/// Old form of [`INPLACE_STATE`]: read, and removed on write.
pub const INPLACE_STATE_OLD: &str = "inplace-update-state";
/// Pod annotation: JSON plan of an in-place update that waits for its grace period.
pub const INPLACE_GRACE: &str = "apps.kruise.io/inplace-update-grace";
/// Old form of [`INPLACE_GRACE`]: read, and removed on write.
pub const INPLACE_GRACE_OLD: &str = "inplace-update-grace";
/// Pod annotation: container ids and hashes reported by the node agent.
pub const RUNTIME_CONTAINERS_META: &str = "apps.kruise.io/runtime-containers-meta";

/// Pod readiness gate and condition: False while the pod is updated in place.
pub const INPLACE_UPDATE_READY: &str = "InPlaceUpdateReady";
/// Pod readiness gate and condition: False while any writer holds a key in its message.
pub const KRUISE_POD_READY: &str = "KruisePodReady";
/// User agent of lifecycle hooks in the message of [`KRUISE_POD_READY`].
pub const READINESS_AGENT_LIFECYCLE: &str = "Lifecycle";
/// Key of a preDelete hook in the message of [`KRUISE_POD_READY`].
pub const READINESS_KEY_PRE_DELETE: &str = "preDeleteHook";
/// Key of an inPlaceUpdate hook in the message of [`KRUISE_POD_READY`].
pub const READINESS_KEY_PRE_UPDATE: &str = "preUpdateHook";

/// Pod annotation: "Ordered" starts containers in the order they are listed.
pub const CONTAINER_LAUNCH_PRIORITY: &str = "apps.kruise.io/container-launch-priority";
/// The only value of [`CONTAINER_LAUNCH_PRIORITY`].
pub const CONTAINER_LAUNCH_ORDERED: &str = "Ordered";
/// Pod annotation: all start barriers have been lifted.
pub const CONTAINER_LAUNCH_PRIORITY_COMPLETED: &str = "apps.kruise.io/container-launch-priority-completed";
/// Container environment: start priority, larger first.
pub const ENV_CONTAINER_PRIORITY: &str = "KRUISE_CONTAINER_PRIORITY";
/// Container environment, injected: config map key the container's start waits for.
pub const ENV_CONTAINER_BARRIER: &str = "KRUISE_CONTAINER_BARRIER";
/// Container environment, injected: version of the SidecarSet a sidecar is at.
pub const ENV_SIDECARSET_VERSION: &str = "SIDECARSET_VERSION";
/// Container environment, injected: version of the other container of a hot-upgraded sidecar.
pub const ENV_SIDECARSET_VERSION_ALT: &str = "SIDECARSET_VERSION_ALT";

/// CloneSet label: v1alpha1 form of `spec.scaleStrategy.excludePreparingDelete`; "true" switches it on.
pub const EXCLUDE_PREPARING_DELETE: &str = "apps.kruise.io/cloneset-scaling-exclude-preparing-delete";
/// Workload annotation: how many nodes pull an image at once before an in-place update.
pub const PREDOWNLOAD_PARALLELISM: &str = "apps.kruise.io/image-predownload-parallelism";
/// Workload annotation: seconds one pull may take.
pub const PREDOWNLOAD_TIMEOUT_SECONDS: &str = "apps.kruise.io/image-predownload-timeout-seconds";
/// Workload annotation: updated and ready pods needed before images are pulled.
pub const PREDOWNLOAD_MIN_UPDATED_READY_PODS: &str =
    "apps.kruise.io/image-predownload-min-updated-ready-pods";
/// ControllerRevision label: "true" once image pull jobs were made for the revision.
pub const PREDOWNLOAD_CREATED: &str = "apps.kruise.io/pre-predownload-created";
/// ControllerRevision label: "true" when no image pull jobs are wanted for the revision.
pub const PREDOWNLOAD_IGNORED: &str = "apps.kruise.io/image-predownload-ignored";

/// Private CloneSet annotation on the v1alpha1 view: what only v1beta1 can hold, as JSON.
pub const V1BETA1_FIELDS: &str = "apps.kruise.io/v1beta1-fields";
/// Private CloneSet annotation on the v1beta1 view: what only v1alpha1 can hold, as JSON.
pub const V1ALPHA1_FIELDS: &str = "apps.kruise.io/v1alpha1-fields";

/// Label of any protected object: "Always" or "Cascading" refuses its deletion.
pub const DELETE_PROTECTION: &str = "policy.kruise.io/delete-protection";
/// Value of [`DELETE_PROTECTION`]: never delete.
pub const DELETE_PROTECTION_ALWAYS: &str = "Always";
/// Value of [`DELETE_PROTECTION`]: do not delete while something depends on the object.
pub const DELETE_PROTECTION_CASCADING: &str = "Cascading";

/// Pod annotation: the PodUnavailableBudget that guards the pod.
pub const RELATED_PUB: &str = "pub.kruise.io/related-pub";
/// Old form of [`RELATED_PUB`].
pub const RELATED_PUB_OLD: &str = "kruise.io/related-pub";
/// Pod annotation: true exempts the pod from its PodUnavailableBudget.
pub const PUB_NO_PROTECT: &str = "pub.kruise.io/no-protect";
/// Prefix of pod labels that make a pod count as unavailable for PodUnavailableBudgets.
pub const UNAVAILABLE_POD_PREFIX: &str = "unavailable-pod.kruise.io/";

/// UnitedDeployment label on its subsets: the revision of the subset.
pub const SUBSET_REVISION_HASH: &str = "apps.kruise.io/controller-revision-hash";
/// UnitedDeployment label on its subsets: the subset's name.
pub const SUBSET_NAME: &str = "apps.kruise.io/subset-name";

/// Pod annotation of Kubernetes: rank for scale-in, lower goes first.
pub const POD_DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Namespace label of Kubernetes: the namespace's own name.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// Node label of Kubernetes: the node's host name.
pub const NODE_HOSTNAME: &str = "kubernetes.io/hostname";
/// Annotation of webhook configurations: the list of webhooks before disabled ones were taken out.
pub const WEBHOOK_TEMPLATE: &str = "template";

/// CloneSet condition: the last scaling round failed.
pub const CONDITION_FAILED_SCALE: &str = "FailedScale";
/// CloneSet condition: the last update round failed.
pub const CONDITION_FAILED_UPDATE: &str = "FailedUpdate";
/// CloneSet condition: whether a rollout moves on within `spec.progressDeadlineSeconds`.
pub const CONDITION_PROGRESSING: &str = "Progressing";
/// Reason of Progressing: everything is updated and available.
pub const REASON_AVAILABLE: &str = "CloneSetAvailable";
/// Reason of Progressing: the rollout is paused.
pub const REASON_PAUSED: &str = "CloneSetPaused";
/// Reason of Progressing: all pods the partition allows are updated and available.
pub const REASON_PARTITION_AVAILABLE: &str = "ProgressPartitionAvailable";
/// Reason of Progressing: the rollout did not finish in time.
pub const REASON_DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";
/// Reason of Progressing: the rollout is running.
pub const REASON_UPDATED: &str = "CloneSetUpdated";

/// Process environment: comma list of the kinds the manager may handle.
pub const ENV_CUSTOM_RESOURCE_ENABLE: &str = "CUSTOM_RESOURCE_ENABLE";
/// Process environment: namespace the manager runs in.
pub const ENV_POD_NAMESPACE: &str = "POD_NAMESPACE";

/// ImagePullJob finalizer: its copies of Secrets are still referenced.
pub const DELETION_PROTECTION_FINALIZER: &str = "apps.kruise.io/deletion-protection";
/// NodeImage label: keeps the object although no such Node exists.
pub const FAKE_NODE_IMAGE: &str = "apps.kruise.io/fake-nodeimage";
/// Node label that, with value [`VIRTUAL_KUBELET`], says that no container runtime stands behind the node.
pub const NODE_TYPE: &str = "type";
/// Value of [`NODE_TYPE`] for virtual nodes.
pub const VIRTUAL_KUBELET: &str = "virtual-kubelet";
/// Annotation of a copied Secret: namespace and name of its source.
pub const SECRET_SOURCE: &str = "imagepulljobs.kruise.io/source-key";
/// Annotation of a copied Secret: the jobs that need it, separated by commas.
pub const SECRET_REFERENCES: &str = "imagepulljobs.kruise.io/references";
/// Annotation of a copied Secret: how it is shared.
pub const SECRET_MODE: &str = "imagepulljobs.kruise.io/mode";
/// The value of [`SECRET_MODE`] and of a NodeImage's `pullSecrets[].mode`.
pub const SECRET_MODE_BATCH: &str = "batch";
/// Annotation of every pull handed to the container runtime.
pub const PULLING_IMAGE_BY: &str = "apps.kruise.io/pulling-image-by";
/// The value of [`PULLING_IMAGE_BY`].
pub const PULLING_IMAGE_BY_DAEMON: &str = "kruise-daemon";
/// Process environment: namespace of copied Secrets.
pub const ENV_DAEMON_CONFIG_NAMESPACE: &str = "KRUISE_DAEMON_CONFIG_NS";
/// The namespace of copied Secrets when the environment names none.
pub const DAEMON_CONFIG_NAMESPACE: &str = "kruise-daemon-config";
/// Process environment: the node the agent runs on.
pub const ENV_NODE_NAME: &str = "NODE_NAME";

/// Pod label: name of the BroadcastJob it belongs to.
pub const BROADCASTJOB_NAME: &str = "broadcastjob-name";
/// Pod label: UID of the BroadcastJob it belongs to.
pub const BROADCASTJOB_UID: &str = "broadcastjob-controller-uid";

/// ContainerRecreateRequest label: UID of the pod.
pub const CRR_POD_UID: &str = "crr.apps.kruise.io/pod-uid";
/// ContainerRecreateRequest label: the pod's node.
pub const CRR_NODE_NAME: &str = "crr.apps.kruise.io/node-name";
/// ContainerRecreateRequest label: "true" until the request has ended.
pub const CRR_ACTIVE: &str = "crr.apps.kruise.io/active";
/// ContainerRecreateRequest finalizer: the pod was forced to be not ready. In v1alpha1 also an annotation: since when.
pub const CRR_UNREADY_ACQUIRED: &str = "crr.apps.kruise.io/unready-acquired";
/// ContainerRecreateRequest annotation of v1alpha1: what the manager sees of the containers' status, as JSON.
pub const CRR_SYNC_CONTAINER_STATUSES: &str = "crr.apps.kruise.io/sync-container-statuses";
/// ContainerRecreateRequest condition: the pod has been forced to be not ready.
pub const CONDITION_PRE_RECREATE_GRACE: &str = "PreRecreateGrace";
/// User agent of ContainerRecreateRequests in the message of [`KRUISE_POD_READY`].
pub const READINESS_AGENT_CRR: &str = "ContainerRecreateRequest";
/// Pod condition: the sidecars were asked to end after the main containers had.
pub const CONDITION_SIDECAR_TERMINATED: &str = "SidecarTerminated";

/// Annotation of a child of an AdvancedCronJob: the time for which its run was scheduled, RFC 3339.
pub const SCHEDULED_AT: &str = "apps.kruise.io/scheduled-at";
/// AdvancedCronJob annotation of users: run once now, whatever the schedule says. Any value but an empty one.
pub const RUN_NOW: &str = "apps.kruise.io/run-now";
/// Private AdvancedCronJob annotation: since when, in Unix seconds, a run asked for by [`RUN_NOW`] is due.
pub const RUN_DUE: &str = "apps.kruise.io/run-due";
/// Annotation of a child of an AdvancedCronJob that was asked for by [`RUN_NOW`]: when, RFC 3339.
pub const REQUESTED_AT: &str = "apps.kruise.io/requested-at";
