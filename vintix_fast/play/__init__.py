"""A robot that walks while somebody watches: in a page of the browser."""
