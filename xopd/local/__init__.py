"""What `xopd up` is made of: processes of one machine, an embedded Redis, and the view of a run."""
