//! The JSON shapes of built-in kinds: for every structure its fields, their types and what becomes of empty values.
//!
//! `wire.txt` holds them. A line `K group version kind structure` names the structure of a kind; a line
//! `T structure field:class:type …` describes one. Types are `string`, `bool`, `int32`, …, `[item]=name` for lists,
//! `{value}=name` for maps, `@structure`, and the scalars with a syntax of their own. The text after `=` is how the API
//! server names the type when a value does not fit. The class says what the API server writes for a field without value:
//! nothing (`-`; `z` also drops zero, `e` also drops empty lists and maps), or always something (`a` zero, `n` null,
//! `s` an empty structure, `q` the quantity 0, `i` the number 0).

use std::collections::HashMap;
use std::sync::OnceLock;

const TABLE: &str = include_str!("wire.txt");

/// Index of a type in [`Types`].
pub(super) type TypeId = usize;

/// What the API server writes for a field that has no value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Class {
    /// Nothing.
    Absent,
    /// Nothing, and nothing for the zero value either.
    OmitZero,
    /// Nothing, and nothing for an empty list or map either.
    OmitEmpty,
    /// The zero value.
    Zero,
    /// `null`.
    Null,
    /// A structure with its own constant fields.
    Struct,
    /// The quantity `0`.
    Quantity,
    /// The number 0, of a field that may also be a text.
    Number,
}

/// One type.
#[derive(Debug)]
pub(super) enum Type {
    String(&'static str),
    Bool,
    Int { min: i64, max: i64, name: &'static str },
    Float,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    Bytes,
    Any,
    List(TypeId, &'static str),
    Map(TypeId, &'static str),
    Struct(Struct),
}

/// A structure.
#[derive(Debug)]
pub(super) struct Struct {
    /// Name as in texts: `PodSpec`.
    pub(super) name: &'static str,
    /// Full name as in OpenAPI documents: `io.k8s.api.core.v1.PodSpec`.
    pub(super) full_name: &'static str,
    pub(super) fields: HashMap<&'static str, (Class, TypeId)>,
    /// The fields that are written even when they have no value.
    pub(super) constant: Vec<(&'static str, Class, TypeId)>,
}

/// All types, and the structures of kinds.
#[derive(Debug, Default)]
pub(super) struct Types {
    all: Vec<Type>,
    named: HashMap<&'static str, TypeId>,
    kinds: HashMap<(&'static str, &'static str, &'static str), TypeId>,
}

impl Types {
    /// The one table of the process.
    pub(super) fn get() -> &'static Self {
        static TYPES: OnceLock<Types> = OnceLock::new();
        TYPES.get_or_init(Self::parse)
    }

    /// A type by its index.
    pub(super) fn at(&self, id: TypeId) -> &Type {
        self.all.get(id).unwrap_or(&Type::Any)
    }

    /// The structure of a kind.
    pub(super) fn kind(&self, group: &str, version: &str, kind: &str) -> Option<TypeId> {
        self.kinds.get(&(group, version, kind)).copied()
    }

    /// A type by its full name.
    pub(super) fn named(&self, full_name: &str) -> Option<TypeId> {
        self.named.get(full_name).copied()
    }

    /// The full name of the structure of a kind.
    pub(super) fn kind_name(&self, group: &str, version: &str, kind: &str) -> Option<&'static str> {
        match self.all.get(self.kind(group, version, kind)?) {
            Some(Type::Struct(structure)) => Some(structure.full_name),
            _ => None,
        }
    }

    fn parse() -> Self {
        let mut all = Self::default();
        for line in TABLE.lines() {
            if let Some(name) = line.strip_prefix("T ").and_then(|rest| rest.split(' ').next()) {
                all.named.insert(name, all.all.len());
                all.all.push(Type::Any);
            }
        }
        for line in TABLE.lines() {
            let mut words = line.split(' ');
            match words.next() {
                Some("T") => {
                    let Some(full_name) = words.next() else { continue };
                    let structure = all.structure(full_name, words);
                    if let Some(place) = all.named.get(full_name).and_then(|id| all.all.get_mut(*id)) {
                        *place = Type::Struct(structure);
                    }
                }
                Some("K") => {
                    let (Some(group), Some(version), Some(kind), Some(id)) = (
                        words.next(),
                        words.next(),
                        words.next(),
                        words.next().and_then(|name| all.named.get(name)),
                    ) else {
                        continue;
                    };
                    all.kinds.insert((if group == "-" { "" } else { group }, version, kind), *id);
                }
                _ => {}
            }
        }
        all
    }

    fn structure(&mut self, full_name: &'static str, fields: std::str::Split<'static, char>) -> Struct {
        let name = full_name.rsplit('.').next().unwrap_or(full_name);
        let mut structure = Struct { name, full_name, fields: HashMap::new(), constant: Vec::new() };
        for field in fields {
            let mut parts = field.splitn(3, ':');
            let (Some(field), Some(class), Some(kind)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let class = match class {
                "z" => Class::OmitZero,
                "e" => Class::OmitEmpty,
                "a" => Class::Zero,
                "n" => Class::Null,
                "s" => Class::Struct,
                "q" => Class::Quantity,
                "i" => Class::Number,
                _ => Class::Absent,
            };
            let id = self.intern(kind);
            structure.fields.insert(field, (class, id));
            if !matches!(class, Class::Absent | Class::OmitZero | Class::OmitEmpty) {
                structure.constant.push((field, class, id));
            }
        }
        structure
    }

    fn intern(&mut self, text: &'static str) -> TypeId {
        if let Some(name) = text.strip_prefix('@') {
            return self.named.get(name).copied().unwrap_or(usize::MAX);
        }
        if let Some(id) = self.named.get(text) {
            return *id;
        }
        let kind = self.read(text);
        self.all.push(kind);
        self.named.insert(text, self.all.len() - 1);
        self.all.len() - 1
    }

    fn read(&mut self, text: &'static str) -> Type {
        for (open, close) in [('[', ']'), ('{', '}')] {
            if let Some((inner, name)) = text.strip_prefix(open).and_then(|rest| closed(rest, open, close)) {
                let id = self.intern(inner);
                let name = name.strip_prefix('=').unwrap_or(name);
                return if open == '[' { Type::List(id, name) } else { Type::Map(id, name) };
            }
        }
        let (base, name) = text.split_once('=').unwrap_or((text, text));
        match base {
            "string" => Type::String(name),
            "bool" => Type::Bool,
            "int32" | "int" => Type::Int { min: i32::MIN.into(), max: i32::MAX.into(), name },
            "int64" => Type::Int { min: i64::MIN, max: i64::MAX, name },
            "float64" => Type::Float,
            "time" => Type::Time,
            "microtime" => Type::MicroTime,
            "quantity" => Type::Quantity,
            "intstr" => Type::IntOrString,
            "bytes" => Type::Bytes,
            _ => Type::Any,
        }
    }
}

/// Splits `inner<close>rest` at the bracket that closes the one before `text`.
fn closed(text: &'static str, open: char, close: char) -> Option<(&'static str, &'static str)> {
    let mut depth = 0_usize;
    for (index, c) in text.char_indices() {
        if c == open {
            depth += 1;
        } else if c == close {
            if depth == 0 {
                return Some((text.get(..index)?, text.get(index + 1..)?));
            }
            depth -= 1;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_resource_has_a_structure() {
        let types = Types::get();
        for resource in crate::builtin::resources() {
            for version in &resource.versions {
                let found = types.kind(&resource.group, &version.name, &resource.kind);
                let elsewhere = resource.group == "apiregistration.k8s.io";
                assert!(found.is_some() || elsewhere, "{} {}", resource.kind, version.name);
            }
        }
    }

    #[test]
    fn lists_of_structures_keep_their_names() {
        let types = Types::get();
        let Type::Struct(spec) = types.at(types.kind("", "v1", "Pod").unwrap()) else {
            panic!("no structure")
        };
        let Type::Struct(spec) = types.at(spec.fields["spec"].1) else { panic!("no structure") };
        assert_eq!(spec.name, "PodSpec");
        assert!(matches!(types.at(spec.fields["containers"].1), Type::List(_, "[]v1.Container")));
        assert!(matches!(types.at(spec.fields["nodeSelector"].1), Type::Map(_, "map[string]string")));
        assert!(matches!(types.at(spec.fields["dnsPolicy"].1), Type::String("v1.DNSPolicy")));
    }
}
