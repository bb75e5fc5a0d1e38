//! The .proto contracts and what is generated from them.
