//! One module a protocol: frame, session, translate.
