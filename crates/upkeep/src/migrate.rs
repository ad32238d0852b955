//! Storage-version migration: objects are rewritten in the version that is stored now, then the old ones are forgotten.

use futures::StreamExt as _;
use kruise_runtime::client::said;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde::Serialize;

use crate::cluster::{definitions_api, objects_api};
use crate::seen::DefinitionSeen;

/// Objects read at once.
const PAGE: u32 = 200;
/// Objects written at once.
const PARALLEL: usize = 8;

/// Why a definition was not migrated.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The API server did not do what was asked.
    #[error("{what}: {}", said(.source))]
    Api {
        /// What was attempted.
        what: String,
        /// The answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server answered with something else than the definition.
    #[error("the answer about {0} is no definition")]
    Nameless(String),
    /// Objects were not rewritten; the old versions are still remembered.
    #[error("{refused} objects were not rewritten, the first, {first}: {why}")]
    Refused {
        /// How many.
        refused: usize,
        /// The first by namespace and name.
        first: String,
        /// What the API server said.
        why: String,
    },
}

fn api_error(what: impl Into<String>) -> impl FnOnce(kube::Error) -> MigrateError {
    let what = what.into();
    move |source| MigrateError::Api { what, source: Box::new(source) }
}

#[derive(Debug, Serialize)]
struct Prune<'a> {
    metadata: Version<'a>,
    status: Stored<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Version<'a> {
    resource_version: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Stored<'a> {
    stored_versions: [&'a str; 1],
}

/// Rewrites all objects of a definition and forgets its old versions; answers how many objects there were. A definition
/// without old versions costs nothing.
///
/// # Errors
/// Nothing is forgotten then, and it may be tried again.
pub async fn migrate(client: &Client, definition: &DefinitionSeen) -> Result<usize, MigrateError> {
    if definition.old_versions().is_empty() {
        return Ok(0);
    }
    let all = objects_api(client.clone(), definition, None);
    let (mut count, mut refused) = (0, Vec::new());
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = all.list(&page).await.map_err(api_error(format!("list {}", definition.name)))?;
        let rewritten = futures::stream::iter(list.items)
            .map(|object| rewrite(client, definition, object))
            .buffer_unordered(PARALLEL)
            .collect::<Vec<_>>()
            .await;
        count += rewritten.len();
        refused.extend(rewritten.into_iter().filter_map(Result::err));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    if let Some((first, why)) = refused.first().cloned() {
        return Err(MigrateError::Refused { refused: refused.len(), first, why });
    }
    // If the definition was changed meanwhile, what is stored may have changed as well: a conflict, and tried again.
    let prune = Prune {
        metadata: Version { resource_version: &definition.resource_version },
        status: Stored { stored_versions: [&definition.storage] },
    };
    definitions_api(client.clone())
        .patch_status(&definition.name, &PatchParams::default(), &Patch::Merge(&prune))
        .await
        .map_err(api_error(format!("forget the old versions of {}", definition.name)))?;
    Ok(count)
}

/// Has a definition store its objects in another of its versions from now on; what is stored stays as it is.
///
/// # Errors
/// The API server's answer.
pub async fn store_as(
    client: &Client,
    definition: &DefinitionSeen,
    version: &str,
) -> Result<DefinitionSeen, MigrateError> {
    let api = definitions_api(client.clone());
    let what = || format!("store {} as {version}", definition.name);
    let mut live = api.get(&definition.name).await.map_err(api_error(what()))?;
    for one in &mut live.spec.versions {
        one.storage = one.name == version;
    }
    let stored =
        api.replace(&definition.name, &PostParams::default(), &live).await.map_err(api_error(what()))?;
    DefinitionSeen::of(&stored).ok_or_else(|| MigrateError::Nameless(definition.name.clone()))
}

/// Writes an object as it is: the API server stores it in the version it stores now.
async fn rewrite(
    client: &Client,
    definition: &DefinitionSeen,
    mut object: DynamicObject,
) -> Result<(), (String, String)> {
    let (namespace, name) = (object.namespace(), object.name_any());
    let api: Api<DynamicObject> = objects_api(client.clone(), definition, namespace.as_deref());
    // Lists of custom resources carry kinds on their items; a lost one would be refused.
    object.types.get_or_insert_with(|| kube::core::TypeMeta {
        api_version: format!("{}/{}", definition.group, definition.storage),
        kind: definition.kind.clone(),
    });
    match api.replace(&name, &PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        // Gone, or written by somebody else meanwhile, which stored it anew as well.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err((format!("{}/{name}", namespace.unwrap_or_default()), said(&error))),
    }
}
