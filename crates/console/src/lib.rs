//! The control API, its JSON types, its client, and the views for people.
