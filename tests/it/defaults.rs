//! What holds where nothing was said.

use ringwire::{Server, SetupError};

use crate::util::{config, isolated};

/// Nothing is authenticated: who wants to be reached from elsewhere says so.
#[test]
fn server_that_is_not_told_where_listens_on_this_machine_alone() {
    isolated(|| match Server::builder().config(config()).start() {
        Ok(server) => {
            let addresses: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
            assert_eq!(addresses, ["127.0.0.1:7411"]);
        }
        // The port is another program's: the address is named all the same.
        Err(SetupError::Listen { address, .. }) => assert_eq!(address, "127.0.0.1:7411"),
        Err(error) => panic!("{error}"),
    });
}
