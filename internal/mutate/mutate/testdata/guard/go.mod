module guard.example

go 1.26.0
