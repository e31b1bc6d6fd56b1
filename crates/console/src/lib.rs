//! The control API: its JSON types, the socket, the client, and the views for people.
//!
//! One request and one answer per connection, each one line of JSON. The types in
//! [`api::v1`] are what people and programs read; they are added to, never changed.

pub mod api;
pub mod client;
pub mod doctor;
pub mod plan;
pub mod reload;
pub mod server;
pub mod view;
