"""The pictures of the lessons, a module a lesson: they draw what the page has computed."""
