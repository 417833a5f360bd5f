"""What a user asks a model about: any files, tables and data sets, listed and read one by one."""
