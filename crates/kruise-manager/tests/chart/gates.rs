//! Templates read feature gates as the binary does: what the chart leaves out must be what the manager does without.

use kruise_common::gates::FeatureGates;

use crate::helm::{Helm, arguments, object};

/// Values of `featureGates`, of which those with `AllAlpha` name the gate that needs certificates from outside.
const SETTINGS: [&str; 16] = [
    "",
    " , ,",
    "ImagePullJobGate=true",
    "KruiseDaemon=0",
    "KruiseDaemon=f",
    "KruiseDaemon= False ,ImagePullJobGate=true",
    " PodWebhook = false ,,KruiseDaemon=FALSE",
    "AllBeta=false",
    "PodIndexLabel=true,AllBeta=false",
    "AllAlpha=true,EnableExternalCerts=false",
    "TemplateNoDefaults=false,AllAlpha=T,EnableExternalCerts=true",
    "PreDownloadImageForInPlaceUpdate=true",
    "PreDownloadImageForDaemonSetUpdate=t,KruiseDaemon=false",
    "DeletionProtectionForCRDCascadingGate=true",
    "EnhancedLivenessProbeGate=true,ResourcesDeletionProtection=1",
    "PodIndexLabel=false,PodIndexLabel=true",
];

fn set(value: &str) -> String {
    format!("featureGates={}", value.replace(',', "\\,"))
}

#[test]
fn gates_are_on_in_the_chart_exactly_when_they_are_on_in_the_manager() {
    let Some(helm) = Helm::find() else { return };
    for setting in SETTINGS {
        let wanted = FeatureGates::parse(&[setting.to_owned()]).unwrap().gates;
        // cert-manager's annotation lets the gates on that need it.
        let given = helm.gates(&["--set-string", &set(setting), "--set=externalCerts.annotations.a=b"]);
        for (gate, on) in wanted.iter() {
            assert_eq!(given["on"][gate.name()], on, "{setting:?}: {}", gate.name());
        }
    }
}

#[test]
fn what_the_manager_refuses_the_chart_refuses_in_the_same_words() {
    let Some(helm) = Helm::find() else { return };
    for setting in ["Foo=true", "PodWebhook", "PodWebhook= yes ", "PodWebhook=", "Foo=true,PodWebhook"] {
        let wanted = FeatureGates::parse(&[setting.to_owned()]).unwrap_err().to_string();
        let error = helm.render(&["--set-string", &set(setting)]).unwrap_err();
        assert!(error.contains(&wanted), "{setting:?}: {error}");
    }
}

fn given(helm: &Helm, more: &[&str]) -> (String, Option<String>) {
    let objects = helm.render(more).unwrap();
    let of = |kind, name| {
        let arguments = arguments(object(&objects, kind, name)?);
        arguments.iter().find_map(|argument| argument.strip_prefix("--feature-gates=")).map(str::to_owned)
    };
    (of("Deployment", "kruise-controller-manager").unwrap(), of("DaemonSet", "kruise-daemon"))
}

#[test]
fn manager_and_agents_get_the_same_gates() {
    let Some(helm) = Helm::find() else { return };
    let (manager, agents) = given(&helm, &["--set-string", &set("PodIndexLabel=true,PodWebhook= false")]);
    assert_eq!(manager, "PodIndexLabel=true,PodWebhook= false", "the string as it is");
    assert_eq!(agents.as_ref(), Some(&manager));
    let (manager, agents) = given(
        &helm,
        &["--set=featureGateOverrides.ImagePullJobGate=false,featureGateOverrides.SidecarTerminator=true"],
    );
    assert_eq!(manager, "ImagePullJobGate=false,SidecarTerminator=true");
    assert_eq!(agents, Some(manager));
    let (manager, _) =
        given(&helm, &["--set=global.featureProfile=reference-all,featureGates=AllBeta=false"]);
    assert_eq!(manager, "AllAlpha=true,AllBeta=false,EnableExternalCerts=false,TemplateNoDefaults=false");
}

#[test]
fn no_agents_without_their_gate_however_it_is_written() {
    let Some(helm) = Helm::find() else { return };
    for off in
        ["KruiseDaemon=false", "KruiseDaemon=0", "KruiseDaemon = F", "AllBeta=false", "KruiseDaemon=False"]
    {
        assert_eq!(given(&helm, &["--set-string", &set(off)]).1, None, "{off}");
    }
    assert!(given(&helm, &["--set=featureGates=KruiseDaemon=0,daemon.enabled=true"]).1.is_some());
}
