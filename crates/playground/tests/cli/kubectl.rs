//! An unmodified kubectl against the sandbox: what a user types, and what it says.
//!
//! kubectl is looked for in `$CLUSTER_DIR/bin`, in the cache where `e2e/cluster/cluster build` puts it, and in `$PATH`; without
//! one the tests say so and end, unless `KUBECTL_REQUIRED` is set.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::{Dir, Sandbox};

const SET: &str = include_str!("../../../../docs/examples/sandbox.yaml");
const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: api, labels: {app: api}}
spec:
  replicas: 2
  selector: {matchLabels: {app: api}}
  template:
    metadata: {labels: {app: api}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: 'demo/api:1', ports: [{containerPort: 80}]}]
";

fn found() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let cluster = std::env::var_os("CLUSTER_DIR").map(PathBuf::from);
    let cluster = cluster.or_else(|| Some(cache?.join("kruise/cluster")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = cluster.map(|dir| dir.join("bin")).into_iter().chain(std::env::split_paths(&path));
    let found = dirs.into_iter().find(|dir| dir.join("kubectl").is_file());
    assert!(found.is_some() || std::env::var_os("KUBECTL_REQUIRED").is_none(), "there is no kubectl");
    if found.is_none() {
        eprintln!("skipped: there is no kubectl in $PATH, and `e2e/cluster/cluster build` has built none");
    }
    found
}

/// kubectl and a sandbox of its own.
struct Kube {
    bin: PathBuf,
    sandbox: Sandbox,
    dir: Dir,
}

impl Kube {
    fn start(name: &str) -> Option<Self> {
        let bin = found()?;
        let dir = Dir::new(&format!("kubectl-{name}"));
        let flags = ["--pull=0s", "--start=0s", "--ready=0s", "--stop=0s", "--nodes=2"];
        let sandbox = Sandbox::start(&dir.0, &flags);
        let kube = Self { bin, sandbox, dir };
        for (file, content) in [("set.yaml", SET), ("deployment.yaml", DEPLOYMENT)] {
            kube.write(file, content);
        }
        Some(kube)
    }

    fn write(&self, file: &str, content: &str) {
        std::fs::write(self.dir.0.join(file), content).unwrap();
    }

    /// A shell that runs in the directory with the files, with kubectl in its path.
    fn shell(&self, line: &str) -> Command {
        shell(&self.bin, &self.sandbox.kubeconfig, &self.dir.0, line)
    }

    fn run(&self, line: &str) -> Output {
        self.shell(line).output().unwrap()
    }

    /// What a command says that must succeed.
    #[track_caller]
    fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        let (out, err) = texts(&output);
        assert!(output.status.success(), "$ kubectl {line}\n{out}{err}");
        out
    }

    /// What a command says that must fail.
    #[track_caller]
    fn fails(&self, line: &str) -> String {
        let output = self.run(line);
        let (out, err) = texts(&output);
        assert!(!output.status.success(), "$ kubectl {line}\n{out}{err}");
        err
    }

    /// A CloneSet of three pods that are ready.
    #[track_caller]
    fn with_set(&self) {
        self.ok("apply -f set.yaml");
        self.ok("wait --for=jsonpath='{.status.availableReplicas}'=3 clone/web --timeout=30s");
    }

    /// A Deployment of two pods that are ready.
    #[track_caller]
    fn with_deployment(&self) {
        self.ok("apply -f deployment.yaml");
        self.ok("rollout status deployment/api --timeout=30s");
    }
}

fn shell(bin: &Path, kubeconfig: &Path, dir: &Path, line: &str) -> Command {
    let mut command = Command::new("sh");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path =
        std::env::join_paths(std::iter::once(bin.to_owned()).chain(std::env::split_paths(&path))).unwrap();
    command.arg("-c").arg(format!("kubectl {line}")).current_dir(dir);
    command.env("PATH", path).env("KUBECONFIG", kubeconfig).env("HOME", dir).stdin(Stdio::null());
    command
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// The words of the first line.
fn header(text: &str) -> Vec<&str> {
    text.lines()
        .next()
        .unwrap_or_default()
        .split("  ")
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .collect()
}

#[test]
fn a_clone_set_has_the_columns_of_the_reference() {
    let Some(kube) = Kube::start("columns") else { return };
    kube.with_set();
    let columns =
        ["NAME", "DESIRED", "UPDATED", "UPDATED_READY", "UPDATED_AVAILABLE", "READY", "TOTAL", "AGE"];
    let shown = kube.ok("get cloneset");
    assert_eq!(header(&shown), columns);
    let row: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..7], ["web", "3", "3", "3", "3", "3", "3"]);
    let wide = kube.ok("get clone web -o wide");
    assert_eq!(header(&wide), [&columns[..], &["CONTAINERS", "IMAGES", "SELECTOR"]].concat());
    assert!(wide.contains("main") && wide.contains("demo/web:1") && wide.contains("app=web"), "{wide}");
    assert_eq!(kube.ok("get clonesets -o name").trim(), "cloneset.apps.kruise.io/web");
}

#[test]
fn a_clone_set_lives_and_ends_by_kubectl() {
    let Some(kube) = Kube::start("life") else { return };
    kube.with_set();
    assert_eq!(kube.ok("scale clone/web --replicas=4").trim(), "cloneset.apps.kruise.io/web scaled");
    kube.ok("wait --for=jsonpath='{.status.readyReplicas}'=4 clone/web --timeout=30s");
    kube.ok(r#"patch clone web --type=merge -p '{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"demo/web:2"}]}}}}'"#);
    kube.ok("wait --for=jsonpath='{.status.updatedReadyReplicas}'=4 clone/web --timeout=30s");
    kube.ok(r#"patch clone web --type=json -p '[{"op":"replace","path":"/spec/replicas","value":2}]'"#);
    let edited =
        kube.shell("edit clone web").env("EDITOR", "sed -i s/replicas:.2/replicas:\\ 1/").output().unwrap();
    assert!(edited.status.success(), "{:?}", texts(&edited));
    assert_eq!(kube.ok("get clone web -o jsonpath='{.spec.replicas}'"), "1");
    kube.ok("wait --for=jsonpath='{.status.replicas}'=1 clone/web --timeout=30s");
    let described = kube.ok("describe clone web");
    for part in [
        "Name:         web",
        "SuccessfulCreate",
        "succeed to create pod web-",
        "successfully update pod web-",
    ] {
        assert!(described.contains(part), "{part} is not in\n{described}");
    }
    kube.ok("annotate clone web note=kept");
    kube.ok("label clone web tier=front");
    assert!(kube.ok("get clone -L tier").contains("front"));
    assert!(kube.ok("get clone -l tier=front -o yaml").contains("note: kept"));
    kube.ok("label clone web tier-");
    assert_eq!(kube.ok("get clone -l tier=front -o name"), "");
    // Since 1.33 kubectl says from which namespace.
    assert!(kube.ok("delete clone web").starts_with("cloneset.apps.kruise.io \"web\" deleted"));
    kube.ok("wait --for=delete pod -l app=web --timeout=30s");
    assert!(kube.fails("get clone web").contains("(NotFound): clonesets.apps.kruise.io \"web\" not found"));
}

#[test]
fn a_clone_set_is_read_and_written_in_its_old_version() {
    let Some(kube) = Kube::start("old") else { return };
    kube.with_set();
    let old = kube.ok("get clonesets.v1alpha1.apps.kruise.io web -o yaml");
    assert!(old.contains("apiVersion: apps.kruise.io/v1alpha1"), "{old}");
    // In the old version the fields of a rolling update stand in the strategy itself.
    assert!(old.contains("    type: InPlaceIfPossible"), "{old}");
    kube.ok(r#"patch clonesets.v1alpha1.apps.kruise.io web --type=merge -p '{"spec":{"updateStrategy":{"partition":2}}}'"#);
    let partition = "get clone web -o jsonpath='{.spec.updateStrategy.rollingUpdate.partition}'";
    assert_eq!(kube.ok(partition), "2");
}

#[test]
fn what_admission_refuses_names_the_field() {
    let Some(kube) = Kube::start("refused") else { return };
    kube.with_set();
    let negative = kube.fails(r#"patch clone web --type=merge -p '{"spec":{"replicas":-1}}'"#);
    for line in [
        "The CloneSet \"web\" is invalid: ",
        "* spec.replicas: Invalid value: -1: spec.replicas in body should be greater than or equal to 0",
        "* .spec.replicas: Invalid value: -1: should be a non-negative integer",
    ] {
        assert!(negative.contains(line), "{negative}");
    }
    let selector =
        kube.fails(r#"patch clone web --type=merge -p '{"spec":{"selector":{"matchLabels":{"a":"b"}}}}'"#);
    for part in [
        "admission webhook \"vcloneset.kb.io\" denied the request: ",
        "spec: Forbidden: ",
        "spec.template.metadata.labels: ",
    ] {
        assert!(selector.contains(part), "{selector}");
    }
    let strategic = kube.fails(r#"patch clone web -p '{"spec":{"replicas":1}}'"#);
    assert!(
        strategic
            .contains("strategic-merge-patch+json is not supported by apps.kruise.io/v1beta1, Kind=CloneSet")
    );
    assert!(strategic.contains("accepted media types include: application/json-patch+json"), "{strategic}");
    kube.write("unknown.yaml", &SET.replace("replicas: 3", "replica: 3"));
    let unknown = kube.fails("create -f unknown.yaml");
    assert!(unknown.contains("strict decoding error: unknown field \"spec.replica\""), "{unknown}");
    let output = kube.run("apply --validate=warn -f unknown.yaml");
    assert_eq!(texts(&output).1.trim(), "Warning: unknown field \"spec.replica\"");
    assert!(output.status.success());
}

#[test]
fn a_dry_run_on_the_server_stores_nothing() {
    let Some(kube) = Kube::start("dry") else { return };
    let made = kube.ok("create --dry-run=server -f set.yaml -o yaml");
    assert!(made.contains("maxSurge: 0"), "admission has filled in defaults: {made}");
    assert!(kube.fails("get clone web").contains("NotFound"));
    kube.with_set();
    let patch = r#"patch clone web --type=merge --dry-run=server -p '{"spec":{"replicas":1}}' -o jsonpath='{.spec.replicas}'"#;
    assert_eq!(kube.ok(patch), "1");
    assert_eq!(kube.ok("get clone web -o jsonpath='{.spec.replicas}'"), "3");
}

#[test]
fn apply_works_on_both_sides() {
    let Some(kube) = Kube::start("apply") else { return };
    assert_eq!(kube.ok("apply -f set.yaml").trim(), "cloneset.apps.kruise.io/web created");
    // Lists of custom kinds are replaced as a whole, so that defaults in them are put back by admission: no change.
    assert_eq!(kube.ok("apply -f set.yaml").trim(), "cloneset.apps.kruise.io/web configured");
    assert_eq!(kube.ok("get clone web -o jsonpath='{.metadata.generation}'"), "1");
    assert_eq!(kube.ok("diff -f set.yaml"), "");
    kube.write("more.yaml", &SET.replace("replicas: 3", "replicas: 5"));
    let differs = kube.run("diff -f more.yaml");
    assert_eq!(differs.status.code(), Some(1));
    let text = texts(&differs).0;
    assert!(text.contains("-  replicas: 3\n+  replicas: 5\n"), "{text}");
    assert_eq!(kube.ok("apply -f more.yaml").trim(), "cloneset.apps.kruise.io/web configured");
    kube.write("other.yaml", &SET.replace("replicas: 3", "replicas: 6"));
    let conflict = kube.fails("apply --server-side --field-manager=robot -f other.yaml");
    assert!(conflict.contains("Apply failed with"), "{conflict}");
    assert!(
        conflict.contains(
            "conflict with \"kubectl-client-side-apply\" using apps.kruise.io/v1beta1: .spec.replicas"
        ) || conflict.contains("- .spec.replicas"),
        "{conflict}"
    );
    let forced = "apply --server-side --force-conflicts --field-manager=robot -f other.yaml";
    assert_eq!(kube.ok(forced).trim(), "cloneset.apps.kruise.io/web serverside-applied");
    assert!(kube.ok("get clone web -o yaml --show-managed-fields").contains("manager: robot"));
    kube.ok("apply -f deployment.yaml");
    assert_eq!(kube.ok("apply -f deployment.yaml").trim(), "deployment.apps/api unchanged");
    assert_eq!(
        kube.ok("apply --server-side -f deployment.yaml").trim(),
        "deployment.apps/api serverside-applied"
    );
    assert_eq!(kube.ok("diff -f deployment.yaml"), "");
    let replaced = kube.ok("replace -f deployment.yaml");
    assert_eq!(replaced.trim(), "deployment.apps/api replaced");
    assert!(kube.fails("create -f deployment.yaml").contains("(AlreadyExists)"));
}

#[test]
fn a_deployment_rolls_out_and_back() {
    let Some(kube) = Kube::start("rollout") else { return };
    kube.with_deployment();
    let image = "get deployment api -o jsonpath='{.spec.template.spec.containers[0].image}'";
    kube.ok("set image deployment/api main=demo/api:2");
    assert!(kube.ok("rollout status deployment/api --timeout=30s").contains("successfully rolled out"));
    assert_eq!(kube.ok(image), "demo/api:2");
    let history = kube.ok("rollout history deployment/api");
    assert!(history.contains("\n1  ") && history.contains("\n2  "), "{history}");
    assert_eq!(kube.ok("rollout undo deployment/api").trim(), "deployment.apps/api rolled back");
    kube.ok("rollout status deployment/api --timeout=30s");
    assert_eq!(kube.ok(image), "demo/api:1");
    kube.ok("rollout restart deployment/api");
    kube.ok("rollout status deployment/api --timeout=30s");
    assert!(kube.ok("get deployment api -o yaml").contains("kubectl.kubernetes.io/restartedAt"));
    kube.ok("rollout pause deployment/api");
    kube.ok("rollout resume deployment/api");
    kube.ok("scale deployment/api --replicas=1");
    kube.ok("wait --for=jsonpath='{.status.replicas}'=1 deployment/api --timeout=30s");
    kube.ok("wait --for=condition=Available deployment/api --timeout=30s");
    let scale = kube.ok("get deployment api --subresource=scale");
    assert_eq!(header(&scale), ["NAME", "DESIRED", "AVAILABLE", "AGE"]);
    for patch in [
        r#"-p '{"spec":{"replicas":2}}'"#,
        r#"--type=merge -p '{"spec":{"replicas":3}}'"#,
        r#"--type=json -p '[{"op":"replace","path":"/spec/replicas","value":2}]'"#,
        r#"--subresource=scale --type=merge -p '{"spec":{"replicas":1}}'"#,
    ] {
        assert!(kube.ok(&format!("patch deployment api {patch}")).contains("patched"), "{patch}");
    }
    let edited = kube
        .shell("edit deployment/api")
        .env("EDITOR", "sed -i s/replicas:.1/replicas:\\ x/")
        .output()
        .unwrap();
    assert!(!edited.status.success());
    assert!(texts(&edited).1.contains("is invalid"), "{:?}", texts(&edited));
    kube.ok("delete deployment api --cascade=foreground");
    assert_eq!(kube.ok("get rs,pods -l app=api -o name"), "");
}

#[test]
fn a_watch_shows_what_happens() {
    let Some(kube) = Kube::start("watch") else { return };
    kube.ok("run zero --image=demo/one:1");
    let mut watch = kube.shell("get pods -w -o custom-columns=N:.metadata.name,P:.status.phase --no-headers");
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    // Once it has shown what was there, it watches from then on.
    let first = lines.next().unwrap().unwrap();
    assert!(first.starts_with("zero"), "{first}");
    kube.ok("run one --image=demo/one:1");
    let mut seen = Vec::new();
    while !seen.iter().any(|line: &String| line.split_whitespace().eq(["one", "Running"])) {
        seen.push(lines.next().expect("the watch ended").unwrap());
        seen.retain(|line| !line.starts_with("zero"));
    }
    assert!(seen[0].split_whitespace().eq(["one", "Pending"]), "{seen:?}");
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn a_pod_runs_and_is_looked_at_in_every_form() {
    let Some(kube) = Kube::start("pod") else { return };
    kube.ok("run one --image=demo/one:1 --labels=app=one --restart=Never");
    kube.ok("wait --for=condition=Ready pod/one --timeout=30s");
    let wide = kube.ok("get pod one -o wide");
    let columns =
        ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES"];
    assert_eq!(header(&wide), columns);
    assert!(wide.contains("1/1") && wide.contains("Running") && wide.contains("node-"), "{wide}");
    assert_eq!(header(&kube.ok("get pods -L app --show-labels"))[5..], ["APP", "LABELS"]);
    assert!(kube.ok("describe pod one").contains("Started container one"));
    assert_eq!(kube.ok("get pods -o custom-columns=N:.metadata.name --no-headers").trim(), "one");
    assert_eq!(kube.ok("get pod one -o go-template='{{.status.phase}}'"), "Running");
    assert_eq!(kube.ok("get pods --field-selector=status.phase=Running -o name").trim(), "pod/one");
    assert_eq!(kube.ok("get pods --field-selector=status.phase!=Running -o name"), "");
    assert!(kube.ok("get pods -A --sort-by=.metadata.name --chunk-size=1").contains("one"));
    let events = kube.ok("events --for pod/one");
    assert!(
        events.contains("Scheduled") && events.contains("Successfully assigned default/one to node-"),
        "{events}"
    );
    assert!(kube.ok("get events").contains("pod/one"));
    assert!(kube.ok("delete pod one --grace-period=1").starts_with("pod \"one\" deleted"));
    assert!(kube.fails("get pod one").contains("(NotFound): pods \"one\" not found"));
    kube.ok("create job once --image=demo/one:1 -- true");
    kube.ok("wait --for=condition=complete job/once --timeout=30s");
    assert!(kube.ok("get job once").contains("1/1"));
}

#[test]
fn a_node_is_cordoned_and_drained_within_the_budget() {
    let Some(kube) = Kube::start("drain") else { return };
    kube.with_set();
    kube.ok("create pdb web --selector=app=web --min-available=2");
    kube.ok("wait --for=jsonpath='{.status.disruptionsAllowed}'=1 pdb/web --timeout=30s");
    assert_eq!(kube.ok("cordon node-0").trim(), "node/node-0 cordoned");
    assert!(kube.ok("get node node-0").contains("Ready,SchedulingDisabled"));
    let drained = kube.ok("drain node-0 --timeout=60s");
    assert!(drained.contains("node/node-0 drained"), "{drained}");
    kube.ok("wait --for=jsonpath='{.status.availableReplicas}'=3 clone/web --timeout=30s");
    assert_eq!(kube.ok("get pods --field-selector=spec.nodeName=node-0 -o name"), "");
    assert_eq!(kube.ok("uncordon node-0").trim(), "node/node-0 uncordoned");
    kube.ok("taint node node-0 key=value:NoSchedule");
    kube.ok("taint node node-0 key-");
}

#[test]
fn kinds_explain_themselves() {
    let Some(kube) = Kube::start("explain") else { return };
    let strategy = kube.ok("explain cloneset.spec.updateStrategy.rollingUpdate.partition");
    for part in
        ["GROUP:      apps.kruise.io", "KIND:       CloneSet", "VERSION:    v1beta1", "FIELD: partition"]
    {
        assert!(strategy.contains(part), "{strategy}");
    }
    let old = kube.ok("explain cloneset --api-version=apps.kruise.io/v1alpha1");
    assert!(old.contains("VERSION:    v1alpha1"), "{old}");
    let pod = kube.ok("explain pod");
    assert!(pod.contains("  metadata\t<ObjectMeta>\n"), "{pod}");
    assert!(kube.ok("explain deployment --recursive").contains("maxSurge"));
    assert!(kube.ok("explain hpa.spec").contains("GROUP:      autoscaling"));
    assert!(kube.fails("explain nothing").contains("the server doesn't have a resource type \"nothing\""));
}

#[test]
fn the_cluster_tells_what_it_serves() {
    let Some(kube) = Kube::start("served") else { return };
    let kinds = kube.ok("api-resources");
    assert_eq!(header(&kinds), ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"]);
    let line = kinds.lines().find(|line| line.starts_with("clonesets ")).unwrap();
    assert!(
        line.split_whitespace().eq(["clonesets", "clone", "apps.kruise.io/v1beta1", "true", "CloneSet"]),
        "{line}"
    );
    let versions = kube.ok("api-versions");
    for version in ["apps.kruise.io/v1alpha1", "apps.kruise.io/v1beta1", "apps/v1", "v1"] {
        assert!(versions.lines().any(|line| line == version), "{version} is not in\n{versions}");
    }
    assert!(kube.ok("version").contains("Server Version: v1.34"));
    assert!(kube.ok("cluster-info").contains("127.0.0.1"));
    assert_eq!(kube.ok("get --raw /readyz"), "ok");
    assert_eq!(kube.ok("auth can-i create pods").trim(), "yes");
    assert!(kube.ok("auth whoami").contains("system:admin"));
    assert_eq!(kube.ok("get nodes -o name").lines().count(), 2);
    assert!(kube.ok("get crd").contains("clonesets.apps.kruise.io"));
    assert!(
        kube.ok("get all -A").contains("service/kubernetes") || kube.ok("get ns").contains("kruise-system")
    );
}

#[test]
fn what_is_not_there_is_refused_politely() {
    let Some(kube) = Kube::start("missing") else { return };
    kube.ok("run one --image=demo/one:1");
    kube.ok("wait --for=condition=Ready pod/one --timeout=30s");
    assert_eq!(kube.fails("top pods").trim(), "error: Metrics API not available");
    assert_eq!(kube.fails("top nodes").trim(), "error: Metrics API not available");
    for line in ["logs one", "exec one -- true", "attach one"] {
        assert!(kube.fails(line).contains("the sandbox runs no containers: "), "{line}");
    }
    assert!(kube.fails("get nothing").contains("the server doesn't have a resource type \"nothing\""));
    assert!(kube.fails("get pods -l 'a in'").contains("unable to parse requirement: found '' expected: '('"));
    let selector = kube.fails("get pods --field-selector=spec.foo=1");
    assert!(selector.contains("field label not supported: spec.foo"), "{selector}");
}

#[test]
fn other_kinds_are_made_by_their_generators() {
    let Some(kube) = Kube::start("generators") else { return };
    kube.with_deployment();
    for line in [
        "create ns other",
        "create configmap cm --from-literal=a=b",
        "create secret generic s --from-literal=a=b",
        "create serviceaccount robot",
        "create role r --verb=get --resource=pods",
        "create rolebinding rb --role=r --serviceaccount=default:robot",
        "create cronjob c --image=demo/one:1 --schedule='0 0 1 1 *' -- true",
        "create quota q --hard=pods=100",
        "create priorityclass p --value=5",
        "create ingress i --rule='example.org/*=api:80'",
        "autoscale deployment/api --min=1 --max=3 --cpu-percent=50",
        "expose deployment/api --port=80",
        "create deployment d --image=demo/d:1",
    ] {
        kube.ok(line);
    }
    let service = kube.ok("get svc api");
    assert_eq!(header(&service), ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]);
    assert!(service.contains("ClusterIP") && service.contains("80/TCP"), "{service}");
    for kind in [
        "svc/api",
        "cm/cm",
        "secret/s",
        "role/r",
        "rolebinding/rb",
        "cronjob/c",
        "hpa/api",
        "ns/other",
        "sa/robot",
    ] {
        assert!(kube.ok(&format!("describe {kind}")).contains("Name:"), "{kind}");
    }
    kube.ok("delete ns other");
    assert!(kube.fails("get ns other").contains("(NotFound)"));
    assert!(kube.ok("delete cm,secret --all").contains("configmap \"cm\" deleted"));
    kube.ok("delete deployment --all");
}

/// Objects of many kinds, for the comparison of their tables.
const MANY: [&str; 12] = [
    "create configmap cm --from-literal=a=b",
    "create secret generic s --from-literal=a=b",
    "create serviceaccount robot",
    "create role r --verb=get --resource=pods",
    "create rolebinding rb --role=r --serviceaccount=default:robot",
    "create job j --image=demo/one:1 -- true",
    "create cronjob c --image=demo/one:1 --schedule='0 0 1 1 *' -- true",
    "create pdb p --selector=app=api --min-available=1",
    "create quota q --hard=pods=100",
    "create ingress i --rule='example.org/*=api:80'",
    "autoscale deployment/api --min=1 --max=3 --cpu-percent=50",
    "expose deployment/api --port=80",
];
const KINDS: [&str; 18] = [
    "deployments",
    "replicasets",
    "pods",
    "services",
    "configmaps",
    "secrets",
    "serviceaccounts",
    "roles",
    "rolebindings",
    "jobs",
    "cronjobs",
    "pdb",
    "quota",
    "ingresses",
    "hpa",
    "clonesets",
    "events",
    "nodes",
];

/// Runs where `CONFORMANCE_KUBECONFIG` names a real cluster with Kruise.
#[test]
fn tables_have_the_columns_of_a_real_cluster() {
    let Some(real) = std::env::var_os("CONFORMANCE_KUBECONFIG") else {
        eprintln!("skipped: CONFORMANCE_KUBECONFIG names no real cluster");
        return;
    };
    let Some(kube) = Kube::start("real") else { return };
    let namespace = format!("kubectl-{}", std::process::id());
    let headers = |kubeconfig: &Path| -> Vec<(String, Vec<String>)> {
        let run = |line: &str| {
            let output = shell(&kube.bin, kubeconfig, &kube.dir.0, line).output().unwrap();
            let (out, err) = texts(&output);
            assert!(output.status.success(), "$ kubectl {line}\n{out}{err}");
            out
        };
        let inside = |line: &str| run(&format!("-n {namespace} {line}"));
        run(&format!("create ns {namespace}"));
        inside("apply -f deployment.yaml -f set.yaml");
        for line in MANY {
            inside(line);
        }
        inside("wait --for=create events --all --timeout=30s");
        inside("wait --for=create pods --all --timeout=30s");
        let table = |kind: &&str| {
            let shown = inside(&format!("get {kind} -o wide --show-labels"));
            ((*kind).to_owned(), header(&shown).into_iter().map(str::to_owned).collect())
        };
        let headers = KINDS.iter().map(table).collect();
        run(&format!("delete ns {namespace} --wait=false"));
        headers
    };
    let (sandbox, real) = (headers(&kube.sandbox.kubeconfig), headers(Path::new(&real)));
    assert_eq!(sandbox, real);
}

#[test]
fn input_from_a_pipe_is_taken() {
    let Some(kube) = Kube::start("pipe") else { return };
    let mut command = kube.shell("create -f - -o name");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let broken = format!("{SET}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: cm}}\n");
    child.stdin.take().unwrap().write_all(broken.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(texts(&output).0, "cloneset.apps.kruise.io/web\nconfigmap/cm\n");
}
