"""Tables and pictures of a comparison of views."""
