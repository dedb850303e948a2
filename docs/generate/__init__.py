"""What of the documentation is made from the library when it is built: a module for each kind."""
