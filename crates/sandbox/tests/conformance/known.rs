//! Cases that the sandbox does not answer as the real API server does, each with what differs.

/// Module and case, and the difference. A case listed here must differ: one that no longer does is to be taken out.
pub(crate) const DIFFERENCES: &[(&str, &str)] = &[
    ("apply::a_wrong_configuration_is_refused", "wording of YAML errors"),
    (
        "apply::emptied_managed_fields_are_forgotten",
        "a write to an object without owners names before-first-apply",
    ),
    ("create::options_are_checked", "quoting of control characters"),
    ("create::several_kinds_get_defaults", "the annotation of daemon sets has no owner"),
    ("create::yaml_is_read", "wording of YAML errors"),
    (
        "custom::a_wrong_definition_is_refused",
        "rules that do not compile, text of a wrong pattern, causes given again",
    ),
    ("custom::the_scale_is_read_and_written", "wording of a negative scale; the time of the scale's owner"),
    ("custom::the_status_is_written_apart", "path in the wording of a status error"),
    ("http::openapi_v2_knows_the_kinds", "/openapi/v2 in JSON"),
    ("schema::embedded_objects_are_checked", "metadata of embedded objects"),
    ("schema::types_are_checked", "1.0 as an integer is kept as written"),
    ("update::immutable_fields_of_workloads_stay", "families of a service whose address changes"),
    ("views::tables_of_workloads_have_their_columns", "no controller makes revisions of stateful sets"),
];

/// Cases about forgotten history, each with a question that is answered with 410 once it is forgotten: by etcd after some
/// minutes, by the cache that watches are served from after some hundred changes.
pub(crate) const AGED: &[(&str, &str)] = &[
    (
        "list::wrong_continue_tokens_are_refused",
        "/api/v1/namespaces?limit=1&resourceVersion=1&resourceVersionMatch=Exact",
    ),
    ("watch::a_version_too_old_is_gone", "/api/v1/secrets?watch=true&resourceVersion=1&timeoutSeconds=1"),
];
