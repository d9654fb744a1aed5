"""Jobs: recommendations for all users of a file, in parts that outlive a kill and that processes share."""
