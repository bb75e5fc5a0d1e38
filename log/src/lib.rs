//! Segments, commits, index, recovery and cursors on disk. Knows no protocol.
