//! Values that cannot be meant are refused before anything is installed, in words that name them.

use crate::helm::Helm;

/// What is set, and what the refusal has to say.
const REFUSALS: [(&str, &[&str]); 33] = [
    ("manager.replicas=two", &["'/manager/replicas'", "got string, want integer"]),
    ("manager.replcas=3", &["'/manager'", "'replcas' not allowed"]),
    ("managr.replicas=3", &["'managr' not allowed"]),
    ("manager.replicas=-1", &["'/manager/replicas'", "minimum"]),
    ("manager.webhook.port=70000", &["'/manager/webhook/port'", "maximum: got 70,000, want 65,535"]),
    ("manager.image.digest=abc", &["'/manager/image/digest'", "'abc' does not match"]),
    (
        "manager.image.pullPolicy=Sometimes",
        &["'/manager/image/pullPolicy'", "'Always', 'IfNotPresent', 'Never'"],
    ),
    ("manager.loggingFormat=xml", &["'/manager/loggingFormat'", "'text', 'json'"]),
    ("manager.leaderElection.leaseDuration=15", &["'/manager/leaderElection/leaseDuration'"]),
    ("daemon.log.level=11", &["'/daemon/log/level'", "maximum: got 11, want 10"]),
    ("daemon.windowsImage.repository=a/b", &["daemon.windowsImage: there is no agent for Windows"]),
    ("daemon.minFreeDisk=10GB", &["'/daemon/minFreeDisk'", "'10GB' does not match"]),
    (
        "daemon.credentialProvider.enable=true,daemon.credentialProvider.hostPath=plugins",
        &["'/daemon/credentialProvider/hostPath'", "'plugins'"],
    ),
    (
        "daemonConfigNamespace=kruise-system",
        &["daemonConfigNamespace and installation.namespace are both kruise-system"],
    ),
    ("installation.namespace=Kruise", &["'/installation/namespace'", "'Kruise' does not match"]),
    (
        "webhookConfiguration.timeoutSeconds=31",
        &["'/webhookConfiguration/timeoutSeconds'", "maximum: got 31, want 30"],
    ),
    (
        "webhookConfiguration.failurePolicy=Open",
        &["'/webhookConfiguration/failurePolicy'", "'Fail', 'Ignore'"],
    ),
    ("crds.mode=sometimes", &["'/crds/mode'"]),
    (
        "hooks.preDelete.mode=delete",
        &["'/hooks/preDelete/mode'", "'check', 'keep', 'orphan', 'purge', 'off'"],
    ),
    ("featureGateOverrides.PodWebhook=off", &["'/featureGateOverrides/PodWebhook'", "want boolean"]),
    ("controllers.cloneset.enabled=no", &["'/controllers/cloneset/enabled'", "want boolean"]),
    ("controllers.cloneset.workers=0", &["'/controllers/cloneset/workers'", "minimum: got 0, want 1"]),
    (
        "controllers.cloneste.enabled=false",
        &["controllers.cloneste: there is no such controller", "cloneset, "],
    ),
    ("controllers.imagelistpulljob.workers=3", &["controllers.imagelistpulljob.workers", "no such setting"]),
    (
        "controllers.imagepulljob.enabled=false",
        &["controllers.imagelistpulljob.enabled is true", "controllers.imagepulljob.enabled is false"],
    ),
    (
        "controllers.nodeimage.enabled=false,featureGates=PreDownloadImageForInPlaceUpdate=true",
        &["PreDownloadImageForInPlaceUpdate is on", "controllers.nodeimage.enabled is false"],
    ),
    ("featureGates=AllAlpha=true", &["EnableExternalCerts", "set externalCerts.annotations"]),
    (
        "featureGates=EnableExternalCerts=true,externalCerts.annotations.a=b,crds.mode=hook",
        &["EnableExternalCerts is on and crds.mode is hook", "set crds.mode to template"],
    ),
    (
        "featureGates=EnableExternalCerts=true,externalCerts.annotations.a=b,\
         webhookConfiguration.managedBy=manager",
        &["EnableExternalCerts is on and webhookConfiguration.managedBy is manager", "managedBy to chart"],
    ),
    (
        "webhookConfiguration.managedBy=manager,webhookConfiguration.timeoutSeconds=10",
        &["webhookConfiguration.timeoutSeconds is 10 and webhookConfiguration.managedBy is manager", "at 30"],
    ),
    (
        "webhookConfiguration.managedBy=manager,webhookConfiguration.failurePolicy=Ignore",
        &["webhookConfiguration.failurePolicy is Ignore and webhookConfiguration.managedBy", "at Fail"],
    ),
    (
        "webhookConfiguration.managedBy=manager,webhookConfiguration.aksIntegration=true",
        &["webhookConfiguration.aksIntegration is true and webhookConfiguration.managedBy", "at false"],
    ),
    (
        "metrics.serviceMonitor.enabled=true,metrics.podMonitor.enabled=true,metrics.podMonitor.manager=true",
        &["metrics.serviceMonitor.enabled", "metrics.podMonitor.manager", "counted twice"],
    ),
];

#[test]
fn wrong_values_are_refused_with_their_names() {
    let Some(helm) = Helm::find() else { return };
    for (set, words) in REFUSALS {
        let Err(error) = helm.render(&["--set", set]) else { panic!("{set} is accepted") };
        for word in words {
            assert!(error.contains(word), "{set}: {word:?} is not in\n{error}");
        }
    }
}
