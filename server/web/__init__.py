"""What every request and reply goes through: ids, errors in one form, the access log."""
