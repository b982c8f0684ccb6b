"""The HTTP server and the page: MobileSAM for many callers at once, and for browsers."""
