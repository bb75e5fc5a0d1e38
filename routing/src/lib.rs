//! Topic filters, the persistent trie and the routing snapshot. Pure.
