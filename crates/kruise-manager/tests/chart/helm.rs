//! An unmodified helm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::{chart, knowledge, updating};

/// The binary, if there is one.
fn found() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let cluster = std::env::var_os("CLUSTER_DIR").map(PathBuf::from);
    let cluster = cluster.or_else(|| Some(cache?.join("kruise/cluster")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = cluster.map(|dir| dir.join("bin")).into_iter().chain(std::env::split_paths(&path));
    let found = dirs.map(|dir| dir.join("helm")).find(|helm| helm.is_file());
    assert!(found.is_some() || std::env::var_os("HELM_REQUIRED").is_none(), "there is no helm");
    if found.is_none() {
        eprintln!("skipped: there is no helm in $PATH, and `e2e/cluster/cluster helm` has built none");
    }
    found
}

/// Helm and the chart.
pub(crate) struct Helm(PathBuf);

impl Helm {
    /// None where there is no helm.
    pub(crate) fn find() -> Option<Self> {
        if updating() {
            knowledge::update();
        }
        found().map(Self)
    }

    fn run(&self, verb: &[&str], more: &[&str]) -> Output {
        let mut command = Command::new(&self.0);
        // No cluster has a say, whatever the environment names.
        command.env_remove("KUBECONFIG").env("HELM_KUBEAPISERVER", "https://127.0.0.1:1");
        command.args(verb).arg(chart()).args(more).output().unwrap()
    }

    /// What `helm lint` says, if it complains.
    pub(crate) fn lint(&self, more: &[&str]) -> Option<String> {
        let output = self.run(&["lint", "--strict"], more);
        (!output.status.success()).then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// The objects a user would get, in the order in which they are made.
    pub(crate) fn render(&self, more: &[&str]) -> Result<Vec<Object>, String> {
        let output = self.run(&["template", "kruise"], more);
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr).unwrap());
        }
        let text = String::from_utf8(output.stdout).unwrap();
        let documents = text.split("---\n").filter(|document| !document.trim().is_empty());
        Ok(documents.map(Object::parse).collect())
    }

    /// What templates take the gates for: the answer of `kruise.gates`, which no object shows.
    pub(crate) fn gates(&self, more: &[&str]) -> Value {
        self.probe("gates", "{{- include \"kruise.gates\" . | nindent 2 }}", &[], more)
    }

    /// What Helm tells after an install, which `helm template` keeps to itself.
    pub(crate) fn notes(&self, more: &[&str]) -> String {
        let notes = fs::read_to_string(chart().join("templates/NOTES.txt")).unwrap();
        let notes = format!("{{{{- define \"probe.notes\" }}}}{notes}{{{{- end }}}}\n");
        let files = [("templates/_probe.tpl", notes.as_str())];
        let data = self.probe("notes", " {text: {{ include \"probe.notes\" . | toJson }}}", &files, more);
        data["text"].as_str().unwrap().to_owned()
    }

    /// The `data` of an object that a template makes in a copy of the chart, with files that this has besides.
    fn probe(&self, name: &str, data: &str, files: &[(&str, &str)], more: &[&str]) -> Value {
        let copy = std::env::temp_dir().join(format!("kruise-chart-{name}-{}", std::process::id()));
        copy_folder(&chart(), &copy);
        let probe = format!("kind: Probe\nmetadata: {{name: {name}}}\ndata:{data}\n");
        for (path, text) in files.iter().chain(&[("templates/probe.yaml", probe.as_str())]) {
            fs::write(copy.join(path), text).unwrap();
        }
        let mut command = Command::new(&self.0);
        command
            .args(["template", "kruise"])
            .arg(&copy)
            .args(["--show-only", "templates/probe.yaml"])
            .args(more);
        let output = command.output().unwrap();
        fs::remove_dir_all(copy).unwrap();
        assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
        Object::parse(&String::from_utf8(output.stdout).unwrap()).value["data"].take()
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// One rendered object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Object {
    /// As rendered, comments included.
    pub(crate) text: String,
    /// As an API server would see it.
    pub(crate) value: Value,
}

impl Object {
    fn parse(text: &str) -> Self {
        let value = serde_yaml_ng::from_str(text).unwrap_or_else(|error| panic!("{error} in\n{text}"));
        Self { text: text.to_owned(), value }
    }

    pub(crate) fn kind(&self) -> &str {
        self.value["kind"].as_str().unwrap()
    }

    pub(crate) fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap()
    }

    /// `Kind namespace/name`, or `Kind name`.
    pub(crate) fn id(&self) -> String {
        match self.value["metadata"]["namespace"].as_str() {
            Some(namespace) => format!("{} {namespace}/{}", self.kind(), self.name()),
            None => format!("{} {}", self.kind(), self.name()),
        }
    }
}

/// The object of that kind and name.
pub(crate) fn object<'a>(objects: &'a [Object], kind: &str, name: &str) -> Option<&'a Value> {
    let found = objects.iter().find(|object| object.kind() == kind && object.name() == name);
    found.map(|object| &object.value)
}

/// The arguments of the only container of a Deployment or DaemonSet.
pub(crate) fn arguments(workload: &Value) -> Vec<String> {
    let arguments = &workload["spec"]["template"]["spec"]["containers"][0]["args"];
    serde_json::from_value(arguments.clone()).unwrap()
}
