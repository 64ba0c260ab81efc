module protem.example/verify

go 1.21
