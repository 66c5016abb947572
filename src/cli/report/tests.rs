//! The whole page, made of the kinds of rows a bench writes.
