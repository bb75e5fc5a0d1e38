//! The public API as a list, read from the sources: `public-api.txt`. Whoever changes it sees so, and decides which
//! version the change belongs to: what disappears or changes is a new major one (a minor one before 1.0).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use syn::{Attribute, Block, Field, Fields, ImplItem, Item, ItemImpl, Type, UseTree, Visibility};

/// Set, the test writes the list instead of comparing.
const UPDATE: &str = "UPDATE_PUBLIC_API";

/// What is re-exported from the codec, by the file that holds it. What a macro makes there (the numbers of `ids.rs`, the
/// codes of `refusal.rs`) is not listed.
const FROM_CODEC: [(&str, &[&str]); 7] = [
    ("ack.rs", &["AckLevel"]),
    ("attribute.rs", &["Key", "Value"]),
    ("builder.rs", &["BatchBuilder"]),
    ("error.rs", &["BuildError", "DecodeError"]),
    ("event.rs", &["DataKind", "Event"]),
    ("frame/hello.rs", &["Welcome"]),
    ("refusal.rs", &["Who"]),
];

/// A change that breaks who uses the client must be meant; nobody looks for it in a review of something else.
#[test]
fn the_public_api_is_the_one_on_the_list() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = String::new();
    for path in sources(&package.join("src")) {
        let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        list(&path, &name, &mut found, |_| true);
    }
    let codec = package.join("../../codec/src");
    for (name, types) in FROM_CODEC {
        let title = format!("codec/{name}");
        list(&codec.join(name), &title, &mut found, |item| types.contains(&item));
    }
    let listed = package.join("tests/public-api.txt");
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&listed, &found).expect("the list is ours");
        return;
    }
    let known = std::fs::read_to_string(&listed).expect("the list is there");
    let gone: Vec<&str> = known.lines().filter(|line| !found.contains(line)).collect();
    let new: Vec<&str> = found.lines().filter(|line| !known.contains(line)).collect();
    assert!(
        known == found,
        "the public API has changed: gone {gone:#?}, new {new:#?}. If that is meant, say so in CHANGELOG.md and \
         run `{UPDATE}=1 cargo test -p ringmesh-client --test public_api`"
    );
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the sources are there");
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    assert!(paths.iter().all(|path| path.extension().is_some()), "folders are not looked into");
    paths.sort();
    paths
}

/// Adds the public items of a file whose name `wanted` takes.
fn list(path: &Path, title: &str, found: &mut String, wanted: impl Fn(&str) -> bool) {
    let text = std::fs::read_to_string(path).expect("the source is there");
    let mut file = syn::parse_file(&text).expect("the source compiles");
    file.attrs.clear();
    file.items =
        file.items.into_iter().filter_map(public).filter(|item| wanted(&name(item))).collect();
    let types: Vec<String> = file.items.iter().filter(|item| is_type(item)).map(name).collect();
    file.items.retain(|item| match item {
        Item::Impl(item) => types.contains(&type_name(item)),
        _ => true,
    });
    if !file.items.is_empty() {
        write!(found, "// {title}\n{}\n", prettyplease::unparse(&file)).expect("it grows");
    }
}

/// What the item is called; of an implementation, the type that it is for.
fn name(item: &Item) -> String {
    match item {
        Item::Enum(item) => item.ident.to_string(),
        Item::Struct(item) => item.ident.to_string(),
        Item::Impl(item) => type_name(item),
        _ => String::new(),
    }
}

fn is_type(item: &Item) -> bool {
    matches!(item, Item::Enum(_) | Item::Struct(_))
}

fn type_name(item: &ItemImpl) -> String {
    match &*item.self_ty {
        Type::Path(path) => {
            path.path.segments.last().map_or(String::new(), |last| last.ident.to_string())
        }
        _ => String::new(),
    }
}

/// The item as its users see it; `None` if they do not.
fn public(mut item: Item) -> Option<Item> {
    let (visibility, attributes) = match &mut item {
        Item::Const(item) => (&item.vis, &mut item.attrs),
        Item::Enum(item) => {
            for variant in &mut item.variants {
                without_documentation(&mut variant.attrs);
                variant.fields.iter_mut().for_each(|it| without_documentation(&mut it.attrs));
            }
            (&item.vis, &mut item.attrs)
        }
        Item::Fn(item) => {
            *item.block = empty();
            (&item.vis, &mut item.attrs)
        }
        Item::Mod(item) => (&item.vis, &mut item.attrs),
        Item::Struct(item) => {
            hide_private_fields(item);
            (&item.vis, &mut item.attrs)
        }
        Item::Type(item) => (&item.vis, &mut item.attrs),
        Item::Use(item) => {
            let is_glob = matches!(item.tree, UseTree::Glob(_));
            assert!(!is_glob || !is_public(&item.vis), "a glob hides what is public");
            (&item.vis, &mut item.attrs)
        }
        Item::Impl(item) => return public_part(item).then_some(Item::Impl(item.clone())),
        Item::Macro(_) => return None,
        other => {
            let is_private = matches!(other, Item::Static(_) | Item::Trait(_) | Item::Union(_));
            assert!(!is_private, "there was none: say what its users see of it");
            return None;
        }
    };
    let is_public = is_public(visibility);
    without_documentation(attributes);
    is_public.then_some(item)
}

/// Leaves only what is public in an implementation; `false` if nothing is.
fn public_part(item: &mut ItemImpl) -> bool {
    without_documentation(&mut item.attrs);
    if item.trait_.is_some() {
        // What a trait asks for is known.
        item.items.clear();
        return true;
    }
    item.items.retain(|inner| match inner {
        ImplItem::Fn(function) => is_public(&function.vis),
        ImplItem::Const(constant) => is_public(&constant.vis),
        _ => false,
    });
    for inner in &mut item.items {
        match inner {
            ImplItem::Fn(function) => {
                without_documentation(&mut function.attrs);
                function.block = empty();
            }
            ImplItem::Const(constant) => without_documentation(&mut constant.attrs),
            _ => {}
        }
    }
    !item.items.is_empty()
}

/// Whether a struct has private fields decides whether others can make one; which they are does not.
fn hide_private_fields(item: &mut syn::ItemStruct) {
    let (fields, placeholder): (_, Field) = match &mut item.fields {
        Fields::Named(fields) => (&mut fields.named, syn::parse_quote!(_private: ())),
        Fields::Unnamed(fields) => (&mut fields.unnamed, syn::parse_quote!(())),
        Fields::Unit => return,
    };
    let count = fields.len();
    let public = std::mem::take(fields).into_iter().filter(|field| is_public(&field.vis));
    fields.extend(public);
    fields.iter_mut().for_each(|field| without_documentation(&mut field.attrs));
    if fields.len() < count {
        fields.push(placeholder);
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn without_documentation(attributes: &mut Vec<Attribute>) {
    attributes.retain(|attribute| !attribute.path().is_ident("doc"));
}

fn empty() -> Block {
    syn::parse_quote!({})
}
