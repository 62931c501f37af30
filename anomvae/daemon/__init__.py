"""The daemon: settings, lifecycle, and the one place where its parts are put together."""
