//! Cases that the sandbox does not answer as the real API server does, each with what differs.

/// Module and case, and the difference. A case listed here must differ: one that no longer does is to be taken out.
pub(crate) const DIFFERENCES: &[(&str, &str)] = &[
    ("apply::a_wrong_configuration_is_refused", "wording of YAML errors"),
    (
        "apply::emptied_managed_fields_are_forgotten",
        "a write to an object without owners names before-first-apply",
    ),
    ("create::a_wrong_name_is_refused", "an absent list of rules is owned"),
    ("create::a_wrong_namespace_is_refused", "an absent list of rules is owned"),
    ("create::options_are_checked", "quoting of control characters"),
    ("create::several_kinds_get_defaults", "owned fields of daemon sets, revisions and events"),
    ("create::yaml_is_read", "wording of YAML errors"),
    ("custom::a_definition_is_accepted_and_established", "defaults of a definition are not owned"),
    ("custom::a_wrong_definition_is_refused", "some causes of refused definitions"),
    ("custom::names_taken_by_another_are_not_accepted", "which taken name is told first"),
    ("custom::the_scale_is_read_and_written", "wording of a negative scale"),
    ("custom::the_status_is_written_apart", "path in the wording of a status error"),
    ("delete::options_are_checked", "dryRun in DeleteOptions is not checked"),
    ("http::openapi_v2_knows_the_kinds", "/openapi/v2 in JSON"),
    ("pods::ephemeral_containers_are_added_by_subresource", "ephemeral containers can be changed"),
    ("schema::embedded_objects_are_checked", "metadata of embedded objects"),
    ("schema::types_are_checked", "1.0 as an integer is kept as written"),
    (
        "subresources::the_status_of_a_workload_is_written_apart",
        "the name of the controller that writes; causes",
    ),
    ("update::immutable_fields_of_workloads_stay", "families of a service whose address changes"),
    ("views::tables_hold_metadata_objects_or_none", "wording of a wrong includeObject"),
    ("views::tables_of_workloads_have_their_columns", "no controller makes revisions of stateful sets"),
    ("webhooks::a_wrong_configuration_is_refused", "some checks of webhook configurations"),
    ("webhooks::an_unreachable_webhook_fails_the_request", "the cause in the text of an unreachable webhook"),
];
