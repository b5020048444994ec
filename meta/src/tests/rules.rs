//! The rules one by one: errors, times, link counts, sessions, long operations in steps.
