module ambient.test/tester

go 1.24.0
