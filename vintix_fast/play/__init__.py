"""A robot that walks while somebody watches: in a window, or a page of the browser."""
